-- The months of the history.

-- The table of the month that begins at `p_month` (UTC).
CREATE OR REPLACE FUNCTION event_partition(p_month timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 'membership_events_' || to_char(p_month AT TIME ZONE 'UTC', 'YYYY_MM');

-- Makes the partition of the month that `p_at` falls in (UTC), if it is missing.
-- CREATE TABLE … PARTITION OF would lock out every reader and writer; ATTACH does not.
-- Call it before the transaction's first insert: after that, PostgreSQL does not see a partition that another
-- transaction made meanwhile.
CREATE OR REPLACE FUNCTION ensure_event_partition(p_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    first_day date := (date_trunc('month', p_at AT TIME ZONE 'UTC'))::date;
    next_month date := (first_day + interval '1 month')::date;
    partition text := event_partition(date_trunc('month', p_at, 'UTC'));
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(partition_lock());
    -- Not to_regclass again: it may have cached, before the wait, that there is no such table.
    IF EXISTS (
        SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'membership_events'::regclass AND c.relname = partition
    ) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE membership_events INCLUDING ALL)', partition);
    EXECUTE format(
        'ALTER TABLE membership_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        partition, first_day || ' 00:00:00+00', next_month || ' 00:00:00+00'
    );
END
$$;

-- This month and as many after it as asked for.
CREATE OR REPLACE FUNCTION make_event_partitions(p_months_ahead integer) RETURNS void
    LANGUAGE sql AS $$
    SELECT ensure_event_partition(
        date_trunc('month', clock_instant() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + month * interval '1 month'
    )
    FROM generate_series(0, p_months_ahead) AS month
$$;

SELECT make_event_partitions(3);

-- The months that have a partition.
CREATE OR REPLACE VIEW event_partitions AS
SELECT p.oid, p.name, (make_date(p.year, p.month, 1) + interval '1 month') AT TIME ZONE 'UTC' AS ends_at
FROM (
    SELECT c.oid, c.relname::text AS name, split_part(c.relname, '_', 3)::integer AS year,
           split_part(c.relname, '_', 4)::integer AS month
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'membership_events'::regclass
) p;
