-- Reports.

-- The instant that a report speaks for. Every write takes the shared lock before it reads the clock, so no write
-- with an earlier time can come in after this call: whoever opens a snapshot now sees all of them.
CREATE OR REPLACE FUNCTION report_cut_off() RETURNS timestamptz
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', '5s', true);
    PERFORM pg_advisory_xact_lock(catalog_lock());
    RETURN clock_instant();
END
$$;
