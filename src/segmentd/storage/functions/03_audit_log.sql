-- The audit log.

CREATE OR REPLACE FUNCTION refuse_to_change_the_audit_log() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever appended to';
END
$$;

CREATE OR REPLACE TRIGGER audit_log_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_the_audit_log();

CREATE OR REPLACE FUNCTION note_in_audit_log(
    p_actor text, p_on_behalf_of text, p_operation text, p_subject text, p_before jsonb, p_after jsonb
) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO audit_log (at, actor, on_behalf_of, operation, subject, before, after)
    VALUES (
        -- The order of ids is also the order of times, and no entry is before the change of the catalog that it records.
        greatest(
            clock_instant(),
            (SELECT c.last_at FROM catalog c),
            (SELECT a.at FROM audit_log a ORDER BY a.id DESC LIMIT 1) + interval '1 microsecond'
        ),
        p_actor, p_on_behalf_of, p_operation, p_subject, p_before, p_after
    )
$$;
