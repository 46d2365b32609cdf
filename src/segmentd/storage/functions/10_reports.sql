-- Reports.

-- The instant up to which a report is complete: later than everything that is stored, and before every later write,
-- whatever the clock does. A snapshot that begins after it therefore shows all that will ever be before this instant.
CREATE OR REPLACE FUNCTION report_cut_off() RETURNS timestamptz
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', '5s', true);
    PERFORM pg_advisory_xact_lock(catalog_lock());
    RETURN raise_high_water_mark();
END
$$;

-- The bytes of all files of reports. Each counts as 16 KiB at least, so that a bound of bytes bounds their number too.
CREATE OR REPLACE FUNCTION report_bytes() RETURNS bigint
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(greatest(r.size, 16384)), 0)::bigint FROM reports r WHERE r.purged_at IS NULL
$$;

-- What decides whether an order is accepted: the number of reports that are not final, of its caller and of all, and
-- the bytes of stored files. Until the transaction ends, other orders wait.
CREATE OR REPLACE FUNCTION report_load(
    p_caller text, OUT of_caller bigint, OUT of_all bigint, OUT stored_bytes bigint
)
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(report_lock());
    SELECT count(*) FILTER (WHERE r.ordered_by = p_caller), count(*)
    INTO of_caller, of_all
    FROM reports r
    WHERE r.status IN ('pending', 'running')
      AND r.expires_at > clock_instant();
    stored_bytes := report_bytes();
END
$$;

-- Reserves room for a file of `p_needed` bytes and for `p_ahead` more, or for as many more as there is room for.
-- Returns the bytes reserved in all; null: there is no room.
CREATE OR REPLACE FUNCTION claim_report_bytes(p_report_id uuid, p_needed bigint, p_ahead bigint, p_bound bigint)
    RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    room bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(report_lock());
    SELECT p_bound - report_bytes() + greatest(r.size, 16384) INTO room FROM reports r WHERE r.id = p_report_id;
    IF p_needed > room THEN
        RETURN NULL;
    END IF;
    UPDATE reports SET size = least(room, p_needed + p_ahead) WHERE id = p_report_id RETURNING size INTO room;
    RETURN room;
END
$$;
