-- Reports, and the keys that sign their links. The rows of a report are not here: they are computed by
-- `effective_changes` when the file is made.

CREATE TABLE reports (
    id         uuid        PRIMARY KEY,
    status     text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'done', 'failed')),
    -- The period, half-open.
    begins_at  timestamptz NOT NULL,
    ends_at    timestamptz NOT NULL CHECK (ends_at > begins_at),
    user_id    bigint,
    segment_id bigint      REFERENCES segments (id),
    header     boolean     NOT NULL,
    -- Everything that fell due before this instant is in the file.
    as_of      timestamptz,
    rows       bigint,
    size       bigint,
    sha256     text,
    reason     text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    purged_at  timestamptz,
    CONSTRAINT a_done_report_has_its_figures
        CHECK (status <> 'done' OR (as_of, rows, size, sha256) IS NOT NULL)
);

CREATE INDEX reports_to_purge ON reports (expires_at) WHERE purged_at IS NULL;

-- The newest key signs; links signed by any of them are good. Two random UUIDs hold 244 random bits.
CREATE TABLE signing_keys (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    key        bytea       NOT NULL CHECK (length(key) >= 16),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO signing_keys (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));

-- The instant that a report speaks for. Every write takes the shared lock before it reads the clock, so no write
-- with an earlier time can come in after this call: whoever opens a snapshot now sees all of them.
CREATE FUNCTION report_cut_off() RETURNS timestamptz
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', '5s', true);
    PERFORM pg_advisory_xact_lock(catalog_lock());
    RETURN clock_instant();
END
$$;
