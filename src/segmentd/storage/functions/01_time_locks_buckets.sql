-- The clock, the locks that all writers agree on, and buckets.

-- PostgreSQL's clock, read after the last lock of a transaction. It may step back; what is written never does:
-- a change of a user is later than everything of that user and of the catalog (lock_users), a change of the catalog
-- and a report's cut-off are later than everything of everybody (raise_high_water_mark). docs/data-model.md, "Time".
CREATE OR REPLACE FUNCTION clock_instant() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp();

-- The same for a statement that only reads. Stable, so that an index can be asked with it.
CREATE OR REPLACE FUNCTION reading_instant() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN statement_timestamp();

-- Where a user falls in a rollout: 0 to 2^32 - 1. The same function stands in domain/bucketing.py.
CREATE OR REPLACE FUNCTION bucket(user_id bigint, salt bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashint8extended(user_id, salt) & 4294967295;

-- Writers of memberships share this lock; a change of segments or rollouts takes it alone. So the rollouts that hold
-- at an event's instant decide its `effective`, and no writer waits for the row of a popular segment
-- (docs/decisions/0005).
CREATE OR REPLACE FUNCTION catalog_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837901;
CREATE OR REPLACE FUNCTION partition_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837902;
-- Orders of reports, and builds that claim bytes, run one after the other: each counts what those before it took.
CREATE OR REPLACE FUNCTION report_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837904;

-- One row: the instant that a reader takes as now. It is never before a change of the catalog or a report's cut-off.
CREATE OR REPLACE VIEW present AS
SELECT greatest(reading_instant(), c.last_at) AS at
FROM catalog c;

-- The present of one user: never before their latest write either, so that everything that is written has happened.
CREATE OR REPLACE FUNCTION present_of(p_user_id bigint) RETURNS timestamptz
    LANGUAGE sql STABLE
    RETURN (SELECT greatest(p.at, (SELECT u.last_at FROM users u WHERE u.id = p_user_id)) FROM present p);

-- The high-water mark of time: an instant later than every time that is stored (docs/decisions/0044). It is the clock's
-- time, unless the clock stepped back. The caller holds the catalog lock alone, so nothing gets a time meanwhile. The
-- mark is stored, so that every later time is after it. Only times ahead of the clock are searched: three look-ups at
-- the right edge of an index, in the present month and the months to come.
CREATE OR REPLACE FUNCTION raise_high_water_mark() RETURNS timestamptz
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := clock_instant();
BEGIN
    UPDATE catalog c
    SET last_at = greatest(
        now_at,
        c.last_at + interval '1 microsecond',
        (SELECT max(e.at) FROM membership_events e WHERE e.at >= now_at) + interval '1 microsecond',
        (SELECT max(r.registered_at) FROM registrations r WHERE r.registered_at >= now_at) + interval '1 microsecond',
        (SELECT max(r.ended_at) FROM registrations r WHERE r.ended_at >= now_at) + interval '1 microsecond'
    )
    RETURNING c.last_at INTO now_at;
    RETURN now_at;
END
$$;
