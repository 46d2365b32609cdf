-- The right to be forgotten: the one exception to "history is only ever appended to".

-- Erasures of the last day, for the nodes' copies to hear of; upkeep removes them.
CREATE TABLE erasures (
    user_id bigint      NOT NULL,
    -- Above all versions of the user's states, below those of whoever comes back with this id.
    version bigint      NOT NULL,
    at      timestamptz NOT NULL,
    xid     xid8        NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (user_id, version)
);

CREATE INDEX erasures_by_xid ON erasures (xid);
CREATE INDEX erasures_by_time ON erasures (at);

-- The states of those of these users who were erased: no overrides, under a version that outweighs what was.
CREATE FUNCTION erased_states(p_user_ids bigint[])
    RETURNS TABLE (user_id bigint, state bytea)
    LANGUAGE sql STABLE AS $$
    SELECT e.user_id, int8send(max(e.version) * 1048576)
    FROM erasures e
    WHERE e.user_id = ANY (p_user_ids)
      AND NOT EXISTS (SELECT FROM users u WHERE u.id = e.user_id)
    GROUP BY e.user_id
$$;

-- Removes everything that is known of a user, history and all, and ends the links of all reports that may name
-- them. Returns the user's state for copies (erased_states); null: nothing was known.
CREATE FUNCTION erase_user(p_user_id bigint) RETURNS bytea
    LANGUAGE plpgsql AS $$
DECLARE
    old_version bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    SELECT u.version INTO old_version FROM users u WHERE u.id = p_user_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM membership_events WHERE user_id = p_user_id;
    DELETE FROM memberships WHERE user_id = p_user_id;
    DELETE FROM registrations WHERE user_id = p_user_id;
    DELETE FROM users WHERE id = p_user_id;
    INSERT INTO erasures (user_id, version, at) VALUES (p_user_id, old_version + 1, clock_instant());
    UPDATE reports r
    SET expires_at = greatest(clock_instant(), r.created_at + interval '1 microsecond'), user_id = NULL
    WHERE (r.user_id IS NULL OR r.user_id = p_user_id) AND r.expires_at > clock_instant();
    RETURN (SELECT e.state FROM erased_states(ARRAY [p_user_id]) e);
END
$$;
