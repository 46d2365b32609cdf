-- The whole schema of segmentd as one text, for reading, and for making a database by hand.
-- `make schema` writes it from tables/ and functions/; never edit it.
-- What the words mean: docs/data-model.md.
-- The tables of the job queue are not here: procrastinate brings them (storage/job_queue.py).


-----------------------------------------------------------------------------------------------------------------------
-- tables/0001_tables.sql

-- Segments, users, memberships and their history; reports; who may do what, and who did.
-- What the words mean: docs/data-model.md.


-- The files of this folder that are in the database.
CREATE TABLE schema_migrations (
    number     integer     PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row: which functions are in the database, and which version of segmentd brought them (storage/migrate.py).
CREATE TABLE schema_functions (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    digest     text        NOT NULL,
    version    text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);


CREATE TABLE users (
    id            bigint      PRIMARY KEY CHECK (id >= 1),
    name          text        CHECK (length(name) <= 256),
    registered_at timestamptz NOT NULL,
    deleted_at    timestamptz,
    -- Every write to the user raises it. A deletion does not reset it, so that a replica can tell old from new. It
    -- starts at the milliseconds since 1970: a user who returns after an erasure is newer than what was erased.
    version       bigint      NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    -- The time of the latest event: the next one is later, whatever the clock does.
    last_at       timestamptz NOT NULL
) WITH (fillfactor = 85);

-- The latest id that the service gave out or passed over (next_free_user_id).
CREATE SEQUENCE assigned_user_ids AS bigint;

-- A user's lives: from a registration to the deletion, one after the other. No foreign key (docs/decisions/0007).
CREATE TABLE registrations (
    user_id       bigint      NOT NULL,
    registered_at timestamptz NOT NULL,
    ended_at      timestamptz CHECK (ended_at > registered_at),
    PRIMARY KEY (user_id, registered_at)
);

CREATE UNIQUE INDEX registrations_open ON registrations (user_id) WHERE ended_at IS NULL;
CREATE INDEX registrations_by_start ON registrations (registered_at);
CREATE INDEX registrations_by_end ON registrations (ended_at) WHERE ended_at IS NOT NULL;


CREATE TABLE segments (
    -- 30 bits: the other two of a word of 32 are flags of an override in the nodes' replicas (override_word).
    id          bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY CHECK (id < 1073741824),
    slug        text        NOT NULL COLLATE "C" CHECK (slug ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$'),
    description text        NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    salt        bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    deleted_at  timestamptz CHECK (deleted_at > created_at),
    -- When the last membership of a deleted segment had been written down as ended.
    settled_at  timestamptz CHECK (settled_at IS NULL OR deleted_at IS NOT NULL),
    -- Up to this user that has been done already.
    settled_to  bigint      NOT NULL DEFAULT 0
);

CREATE UNIQUE INDEX segments_living ON segments (lower(slug)) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX segments_living_by_slug ON segments (slug) WHERE deleted_at IS NULL;
CREATE INDEX segments_unsettled ON segments (id) WHERE deleted_at IS NOT NULL AND settled_at IS NULL;
-- What a slug meant: the living segment first, then the one deleted last.
CREATE INDEX segments_by_slug ON segments (slug, deleted_at);
CREATE INDEX segments_deleted ON segments (deleted_at) WHERE deleted_at IS NOT NULL;

-- Every change of a percentage is a new version.
CREATE TABLE rollouts (
    segment_id bigint        NOT NULL REFERENCES segments (id),
    percent    numeric(7, 4) NOT NULL CHECK (percent BETWEEN 0 AND 100),
    threshold  bigint        NOT NULL GENERATED ALWAYS AS (floor(percent * 4294967296 / 100)::bigint) STORED,
    started_at timestamptz   NOT NULL,
    ended_at   timestamptz   CHECK (ended_at > started_at),
    PRIMARY KEY (segment_id, started_at)
);

CREATE UNIQUE INDEX rollouts_open ON rollouts (segment_id) WHERE ended_at IS NULL;

CREATE TYPE segment_operation AS ENUM ('created', 'renamed', 'percent', 'deleted');

-- What those who follow the feed see of segments (functions/15_feed.sql). Append-only. A description is not in it.
CREATE TABLE segment_events (
    segment_id     bigint            NOT NULL REFERENCES segments (id),
    at             timestamptz       NOT NULL,
    -- Of one change of a segment the new name comes first, then the new percentage.
    operation      segment_operation NOT NULL,
    -- After the change; before it, if it is another.
    slug           text              NOT NULL COLLATE "C",
    slug_before    text              COLLATE "C",
    percent_before numeric(7, 4),
    percent_after  numeric(7, 4),
    actor          text              NOT NULL,
    xid            xid8              NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (segment_id, at, operation)
);

CREATE INDEX segment_events_by_xid ON segment_events (xid);
-- Whether another segment got the name of a deleted one.
CREATE INDEX segment_events_renamed ON segment_events (slug, at) WHERE operation = 'renamed';

-- One row. Every change of a segment or a rollout raises `version`. `last_at` is the time of the latest such change or
-- of the latest cut-off of a report; the times of all later writes are after it (functions/01_time_locks_buckets.sql).
CREATE TABLE catalog (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint      NOT NULL,
    last_at  timestamptz NOT NULL
);

INSERT INTO catalog (version, last_at) VALUES (0, '-infinity');


-- The overrides, present and past: each is a stored decision about one user and one segment. A new decision closes the
-- open row and adds another, so that a question about any past instant has an answer (docs/decisions/0006).
-- There are no foreign keys (docs/decisions/0007). One to segments would lock a popular segment's row in every write;
-- segments are never deleted, and ids come only from segments that were read in the same transaction. One to users would
-- ask for each new row whether the user is there whom the same transaction has locked.
CREATE TABLE memberships (
    user_id    bigint      NOT NULL,
    segment_id bigint      NOT NULL,
    included   boolean     NOT NULL,
    since      timestamptz NOT NULL,
    until      timestamptz CHECK (until > since),
    ended_at   timestamptz CHECK (ended_at > since),
    PRIMARY KEY (user_id, segment_id, since),
    CONSTRAINT exclusions_have_no_term CHECK (included OR until IS NULL),
    CONSTRAINT a_term_ends_in_time CHECK (ended_at <= until)
) WITH (
    -- A fifth of a table of a hundred million rows, which is usual, is much to wait for (docs/decisions/0075).
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- Ten rows of a user: where few users have most of the rows, a sample finds a fiftieth of the users.
ALTER TABLE memberships ALTER COLUMN user_id SET (n_distinct = -0.1);

CREATE UNIQUE INDEX memberships_open ON memberships (user_id, segment_id) WHERE ended_at IS NULL;
CREATE INDEX memberships_of_segment ON memberships (segment_id, user_id) WHERE ended_at IS NULL;
-- So that members are counted without a look at the table (membership_tally).
CREATE INDEX memberships_excluding ON memberships (segment_id) WHERE ended_at IS NULL AND NOT included;
-- The same for the past, so that a page of who was in reads no other segment's rows (docs/decisions/0060).
CREATE INDEX memberships_past_of_segment ON memberships (segment_id, user_id, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX memberships_due ON memberships (until, user_id) WHERE ended_at IS NULL AND until IS NOT NULL;
-- Each change asks whether a term of its users has ended (settle_before_changes).
CREATE INDEX memberships_terms ON memberships (user_id, until) WHERE ended_at IS NULL AND until IS NOT NULL;

CREATE TYPE event_operation AS ENUM ('add', 'remove');
CREATE TYPE event_cause AS ENUM ('request', 'expiry', 'segment-deleted', 'user-deleted');

-- Append-only. `effective` says whether the answer to "is the user in?" changed with this event.
CREATE TABLE membership_events (
    user_id      bigint      NOT NULL,
    segment_id   bigint      NOT NULL,
    at           timestamptz NOT NULL,
    -- Enums: PostgreSQL would read the text of a check again for every statement that inserts.
    operation    event_operation NOT NULL,
    effective    boolean     NOT NULL,
    until        timestamptz,
    cause        event_cause NOT NULL,
    actor        text        NOT NULL,
    reason       text        CHECK (length(reason) <= 500),
    -- The writing transaction. By it a node finds the events that its last snapshot could not see.
    xid          xid8        NOT NULL DEFAULT pg_current_xact_id(),
    on_behalf_of text,
    -- In the order in which a user's history is read. It is also the row's identity in logical replication.
    PRIMARY KEY (user_id, at, segment_id)
) PARTITION BY RANGE (at);

CREATE INDEX membership_events_by_xid ON membership_events (xid);
-- The latest time that any event has (raise_high_water_mark).
CREATE INDEX membership_events_by_time ON membership_events (at);
-- The latest change of one user in one segment; and all that a report needs, so that a range of users is read from
-- here, without the table, in which they are scattered.
CREATE INDEX membership_events_effective ON membership_events (user_id, segment_id, at) INCLUDE (operation)
    WHERE effective;


-- Since when the history is there (functions/16_retention.sql, docs/decisions/0101). One row.
CREATE TABLE kept_history (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Requests about the time before are refused. Null: nothing was ever removed.
    begins_at      timestamptz,
    -- When it was set to that.
    moved_at       timestamptz,
    -- The latest transaction with an event before that. A position of the feed that has not seen it has expired.
    last_xid       xid8,
    -- Up to this user, `earlier_changes` has what stays of the time before; null: of all users.
    summed_up_to   bigint,
    -- The partition that is being removed.
    dropping       text,
    -- The events of removed partitions, as PostgreSQL counted them since `counted_since` (storage/measures.py).
    removed_events bigint      NOT NULL DEFAULT 0,
    counted_since  timestamptz
);

INSERT INTO kept_history DEFAULT VALUES;

-- What stays of a user and a segment whose closed overrides were removed: the latest change before `as_of`, which was the
-- beginning of the history then. Without it nobody could tell since when, or why, a user is in or out.
CREATE TABLE earlier_changes (
    user_id    bigint          NOT NULL,
    segment_id bigint          NOT NULL,
    as_of      timestamptz     NOT NULL,
    -- Nulls: the user was never in before that.
    at         timestamptz     CHECK (at < as_of),
    operation  event_operation,
    -- Also `rollout`.
    cause      text            CHECK ((cause IS NULL) = (at IS NULL)),
    -- Whether an override held at `as_of` that included the user. From `joins_at` on the overrides themselves tell: that
    -- is the beginning of the override that held, or `as_of`.
    included   boolean         NOT NULL,
    joins_at    timestamptz     NOT NULL CHECK (joins_at <= as_of),
    PRIMARY KEY (user_id, segment_id)
);

-- In the order in which exports read closed overrides.
CREATE INDEX earlier_changes_of_segment ON earlier_changes (segment_id, user_id, joins_at);


-- One decision of a change, with what it does (change_memberships). `place`: of its user among those of the call.
CREATE TYPE membership_change AS (
    place      integer,
    user_id    bigint,
    segment_id bigint,
    at         timestamptz,
    adds       boolean,
    until      timestamptz,
    -- If the outcome changes anything: whether it closes an override that is open, and whether it opens another.
    closes     boolean,
    opens      boolean,
    outcome    text
);


CREATE TABLE reports (
    id         uuid        PRIMARY KEY,
    status     text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'done', 'failed')),
    -- The period, half-open.
    begins_at  timestamptz NOT NULL,
    ends_at    timestamptz NOT NULL CHECK (ends_at > begins_at),
    user_id    bigint,
    segment_id bigint      REFERENCES segments (id),
    header     boolean     NOT NULL,
    -- The cut-off: every change before this instant is in the file.
    as_of      timestamptz,
    rows       bigint,
    -- The bytes of the file; while it is being made, the bytes reserved for it.
    size       bigint,
    sha256     text,
    reason     text,
    -- The caller's name. The number of reports in progress is bounded for each caller.
    ordered_by text        NOT NULL,
    on_behalf_of text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    purged_at  timestamptz,
    CONSTRAINT a_done_report_has_its_figures
        CHECK (status <> 'done' OR (as_of, rows, size, sha256) IS NOT NULL)
);

CREATE INDEX reports_by_time ON reports (created_at, id);
CREATE INDEX reports_to_purge ON reports (expires_at) INCLUDE (size) WHERE purged_at IS NULL;
CREATE INDEX reports_to_make ON reports (ordered_by, expires_at) WHERE status IN ('pending', 'running');
CREATE INDEX reports_to_forget ON reports (expires_at) WHERE purged_at IS NOT NULL;

-- The newest key signs; a link signed by any of them is valid. Two random UUIDs hold 244 random bits.
CREATE TABLE signing_keys (
    id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    key        bytea       NOT NULL CHECK (length(key) >= 16),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Until when a replaced key verifies links.
    good_until timestamptz
);

INSERT INTO signing_keys (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));


-- Lists of users that callers brought. While an import is not final, its rows are in two tables of their own, which are
-- dropped afterwards: import_blocks_N has the lines as they came, import_decisions_N what they mean
-- (functions/13_imports.sql, docs/decisions/0071).
CREATE TABLE imports (
    -- In the order in which the imports began.
    number           bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id               uuid        NOT NULL UNIQUE,
    status           text        NOT NULL DEFAULT 'receiving'
                                 CHECK (status IN ('receiving', 'checking', 'applying', 'done', 'failed', 'canceled')),
    -- What the caller wants; segment and term are for the rows that name none.
    operation        text        NOT NULL CHECK (operation IN ('add', 'remove', 'replace')),
    segment_id       bigint      REFERENCES segments (id),
    until            timestamptz,
    ttl_seconds      bigint,
    reason           text        CHECK (length(reason) <= 500),
    dry_run          boolean     NOT NULL,
    skip_invalid     boolean     NOT NULL,
    format           text        NOT NULL CHECK (format IN ('csv', 'ndjson')),
    ordered_by       text        NOT NULL,
    on_behalf_of     text,
    -- Names the import to its caller; the other is a hash of the parameters that came with it.
    idempotency_key  text,
    fingerprint      text        NOT NULL,
    -- The file: how values are separated, how many a line has, and where each name of a column stands, from 1 on.
    separator        text,
    width            integer,
    places           jsonb,
    bytes            bigint      NOT NULL DEFAULT 0,
    sha256           text,
    -- When the process that receives the rows was last alive.
    heard_at         timestamptz NOT NULL,
    rows             bigint      NOT NULL DEFAULT 0,
    invalid_rows     bigint      NOT NULL DEFAULT 0,
    -- Users with decisions.
    users            bigint,
    -- A dry run's first differences.
    sample           jsonb       NOT NULL DEFAULT '[]',
    -- Why it failed.
    detail           text,
    created_at       timestamptz NOT NULL,
    finished_at      timestamptz,
    -- Whether its two tables may still be there.
    staged           boolean     NOT NULL DEFAULT true,
    CONSTRAINT only_a_final_import_has_an_end
        CHECK ((finished_at IS NOT NULL) = (status IN ('done', 'failed', 'canceled')))
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX imports_by_key ON imports (ordered_by, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX imports_under_way ON imports (ordered_by) WHERE finished_at IS NULL;
CREATE INDEX imports_storing ON imports (number) WHERE staged OR invalid_rows > 0;
CREATE INDEX imports_by_end ON imports (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX imports_silent ON imports (heard_at) WHERE status = 'receiving';

-- An import is applied by ranges of users, each with its own progress, so that two connections work on one import and no
-- two on one user. A range begins after the last user of the one before.
CREATE TABLE import_ranges (
    import_number bigint  NOT NULL REFERENCES imports (number) ON DELETE CASCADE,
    place         integer NOT NULL,
    last_user     bigint  NOT NULL,
    -- The last user who was changed, and whether nobody is left.
    applied_to    bigint  NOT NULL,
    is_over       boolean NOT NULL DEFAULT false,
    users         bigint  NOT NULL DEFAULT 0,
    added         bigint  NOT NULL DEFAULT 0,
    removed       bigint  NOT NULL DEFAULT 0,
    updated       bigint  NOT NULL DEFAULT 0,
    unchanged     bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (import_number, place)
) WITH (fillfactor = 50);

-- Rows of imports that cannot be applied: the line, what is wrong, and the beginning of its text.
CREATE TABLE import_errors (
    import_number bigint NOT NULL REFERENCES imports (number) ON DELETE CASCADE,
    line          bigint NOT NULL,
    detail        text   NOT NULL,
    text          text   NOT NULL,
    PRIMARY KEY (import_number, line)
);


-- Erasures of the last day, so that every node's replica applies them, and those who follow the feed see them; upkeep
-- removes older ones.
CREATE TABLE erasures (
    user_id      bigint      NOT NULL,
    -- Above all versions of the erased user's states, below those of a later user with this id.
    version      bigint      NOT NULL,
    at           timestamptz NOT NULL,
    -- The segments that were ever decided on for the user: the feed has the user leave each of them.
    segment_ids  bigint[]    NOT NULL,
    actor        text        NOT NULL,
    on_behalf_of text,
    xid          xid8        NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (user_id, version)
);

CREATE INDEX erasures_by_xid ON erasures (xid);
CREATE INDEX erasures_by_time ON erasures (at);

-- The transactions of erasures that were removed since. A position in the feed that has not seen one of them cannot be
-- followed any more.
CREATE TABLE forgotten_erasures (
    xid xid8 PRIMARY KEY
);

-- Where each timeline of the write-ahead log began, as far as it is known: what a standby that became the primary has
-- of the one before. Null: it was not noticed in time.
CREATE TABLE timelines (
    timeline bigint PRIMARY KEY,
    began_at pg_lsn
);


-- API tokens; only the SHA-256 of the secret is stored. Rows are never removed: were the table empty again, access
-- without a token would open again (docs/decisions/0027).
CREATE TABLE tokens (
    id           bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name         text        NOT NULL CHECK (name ~ '^[!-~]+( [!-~]+)*$' AND length(name) <= 128),
    role         text        NOT NULL CHECK (role IN ('reader', 'editor', 'admin')),
    digest       bytea       NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz CHECK (expires_at > created_at),
    revoked_at   timestamptz CHECK (revoked_at >= created_at),
    last_used_on date,
    -- History uses these two names for callers without a token and for the service.
    CONSTRAINT a_token_is_not_named_like_nobody CHECK (name NOT IN ('anonymous', 'segmentd'))
);

CREATE UNIQUE INDEX tokens_in_force ON tokens (name) WHERE revoked_at IS NULL;

-- One row. Every change of the tokens raises `version`.
CREATE TABLE access (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);

INSERT INTO access (version) VALUES (0);


-- Sessions of people in the console. What a cookie holds is stored nowhere: `digest` is its SHA-256, and `sealed` is what
-- the person logged in with, encrypted with a key that is made from it (docs/decisions/0083).
CREATE TABLE console_sessions (
    digest     bytea       PRIMARY KEY CHECK (length(digest) = 32),
    -- The name of the token, or the subject of the JWT.
    caller     text        NOT NULL CHECK (length(caller) <= 128),
    sealed     bytea       NOT NULL CHECK (length(sealed) <= 10000),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at)
);

CREATE INDEX console_sessions_of_caller ON console_sessions (caller, created_at);
CREATE INDEX console_sessions_to_forget ON console_sessions (expires_at);


-- Who changed segments and tokens or erased users, with the values before and after. Append-only; no personal data.
CREATE TABLE audit_log (
    id           bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at           timestamptz NOT NULL,
    actor        text        NOT NULL,
    on_behalf_of text,
    operation    text        NOT NULL CHECK (operation IN (
        'segment-created', 'segment-changed', 'segment-deleted', 'token-created', 'token-revoked', 'user-erased',
        'signing-key-replaced', 'import-started', 'import-ended', 'history-shortened'
    )),
    -- The slug or the token's name; of an import the segment of the query.
    subject      text,
    before       jsonb,
    after        jsonb
);


-----------------------------------------------------------------------------------------------------------------------
-- functions/01_time_locks_buckets.sql

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


-----------------------------------------------------------------------------------------------------------------------
-- functions/02_months.sql

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


-----------------------------------------------------------------------------------------------------------------------
-- functions/03_audit_log.sql

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


-----------------------------------------------------------------------------------------------------------------------
-- functions/04_catalog.sql

-- Changes of segments and rollouts, each one call in one transaction.

-- Takes the catalog lock alone, so that no membership changes meanwhile.
CREATE OR REPLACE FUNCTION lock_catalog() RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    PERFORM pg_advisory_xact_lock(catalog_lock());
END
$$;

-- Gives the time of a change, later than everything before it. The caller holds the catalog lock alone.
CREATE OR REPLACE FUNCTION raise_catalog() RETURNS timestamptz
    LANGUAGE sql AS $$
    UPDATE catalog SET version = version + 1;
    SELECT raise_high_water_mark();
$$;

-- What clients see of the living segments.
CREATE OR REPLACE VIEW living_segments AS
SELECT s.id, s.slug, s.description, r.percent, s.salt, s.created_at, r.threshold
FROM segments s
LEFT JOIN rollouts r ON r.segment_id = s.id AND r.ended_at IS NULL
WHERE s.deleted_at IS NULL;

-- The living segment with this slug in any case. The index folds case by collation C, so the look-up does too: in the
-- database's own collation `I` may have another small letter. The planner inlines these functions, like views.
CREATE OR REPLACE FUNCTION living_segment_in_any_case(p_slug text) RETURNS SETOF living_segments
    LANGUAGE sql STABLE AS $$
    SELECT * FROM living_segments s WHERE lower(s.slug) = lower(p_slug COLLATE "C")
$$;

-- The living segment with exactly this slug.
CREATE OR REPLACE FUNCTION living_segment(p_slug text) RETURNS SETOF living_segments
    LANGUAGE sql STABLE AS $$
    SELECT * FROM living_segments s WHERE s.slug = p_slug
$$;

-- Deleted segments that may have open memberships, of users after `settled_to`.
CREATE OR REPLACE VIEW segments_to_settle AS
SELECT s.id, s.settled_to
FROM segments s
WHERE s.deleted_at IS NOT NULL AND s.settled_at IS NULL;

-- What the audit log shows of a segment.
CREATE OR REPLACE FUNCTION audited(p_segment living_segments) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'slug', p_segment.slug,
        'description', p_segment.description,
        'percent', trim_scale(p_segment.percent),
        'salt', p_segment.salt::text
    )
$$;

-- Notes a change of a segment for the feed.
CREATE OR REPLACE FUNCTION note_segment_event(
    p_at timestamptz, p_operation segment_operation, p_before living_segments, p_after living_segments, p_actor text
) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO segment_events (segment_id, at, operation, slug, slug_before, percent_before, percent_after, actor)
    VALUES (
        coalesce(p_after.id, p_before.id), p_at, p_operation, coalesce(p_after.slug, p_before.slug),
        CASE WHEN p_operation = 'renamed' THEN p_before.slug END,
        CASE WHEN p_operation <> 'renamed' THEN p_before.percent END,
        CASE WHEN p_operation <> 'renamed' THEN p_after.percent END,
        p_actor
    )
$$;

-- Makes a segment. Raises unique_violation where a living one has the slug in any case.
CREATE OR REPLACE FUNCTION create_segment(
    p_slug text, p_description text, p_percent numeric, p_salt bigint,
    p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
)
    RETURNS SETOF living_segments
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    new_id bigint;
    created living_segments;
BEGIN
    PERFORM lock_catalog();
    -- Check before the first write: a refused INSERT would use up an id, and there are 2^30 of them.
    IF EXISTS (SELECT FROM living_segment_in_any_case(p_slug)) THEN
        RAISE unique_violation USING MESSAGE = 'a living segment has this slug';
    END IF;
    now_at := raise_catalog();
    INSERT INTO segments (slug, description, salt, created_at)
    VALUES (p_slug, p_description, p_salt, now_at)
    RETURNING id INTO new_id;
    IF p_percent IS NOT NULL THEN
        INSERT INTO rollouts (segment_id, percent, started_at) VALUES (new_id, p_percent, now_at);
    END IF;
    SELECT * INTO created FROM living_segments s WHERE s.id = new_id;
    PERFORM note_segment_event(now_at, 'created', NULL, created, p_actor);
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'segment-created', p_slug, NULL, audited(created));
    RETURN NEXT created;
END
$$;

-- Changes the slug, the description or the percentage; null leaves a value as it is. `p_ends_rollout` ends the
-- percentage. A segment that no longer has the values in `p_seen` stays as it is. No row: there is no such living
-- segment.
CREATE OR REPLACE FUNCTION update_segment(
    p_slug text, p_new_slug text, p_description text, p_percent numeric, p_ends_rollout boolean,
    p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL, p_seen jsonb DEFAULT '{}'
)
    RETURNS SETOF living_segments
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    segment living_segments;
    changed living_segments;
BEGIN
    PERFORM lock_catalog();
    SELECT * INTO segment FROM living_segment(p_slug);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT to_jsonb(segment) @> p_seen THEN
        RETURN NEXT segment;
        RETURN;
    END IF;
    now_at := raise_catalog();
    UPDATE segments s
    SET slug = coalesce(p_new_slug, s.slug), description = coalesce(p_description, s.description)
    WHERE s.id = segment.id;

    IF p_ends_rollout OR p_percent <> segment.percent THEN
        UPDATE rollouts SET ended_at = now_at WHERE segment_id = segment.id AND ended_at IS NULL;
    END IF;
    -- The same percentage again makes no new version.
    IF p_percent IS DISTINCT FROM segment.percent AND p_percent IS NOT NULL THEN
        INSERT INTO rollouts (segment_id, percent, started_at) VALUES (segment.id, p_percent, now_at);
    END IF;
    SELECT * INTO changed FROM living_segments s WHERE s.id = segment.id;
    IF changed.slug <> segment.slug THEN
        PERFORM note_segment_event(now_at, 'renamed', segment, changed, p_actor);
    END IF;
    IF changed.percent IS DISTINCT FROM segment.percent THEN
        PERFORM note_segment_event(now_at, 'percent', segment, changed, p_actor);
    END IF;
    IF changed IS DISTINCT FROM segment THEN
        PERFORM note_in_audit_log(
            p_actor, p_on_behalf_of, 'segment-changed', p_slug, audited(segment), audited(changed)
        );
    END IF;
    RETURN NEXT changed;
END
$$;

-- Ends every membership at once: readers look at `deleted_at`; `settle` writes the events later, with that same time.
-- False: there is no such living segment.
CREATE OR REPLACE FUNCTION delete_segment(
    p_slug text, p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    old living_segments;
BEGIN
    PERFORM lock_catalog();
    SELECT * INTO old FROM living_segment(p_slug);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    now_at := raise_catalog();
    UPDATE segments s SET deleted_at = now_at WHERE s.id = old.id;
    UPDATE rollouts SET ended_at = now_at WHERE segment_id = old.id AND ended_at IS NULL;
    PERFORM note_segment_event(now_at, 'deleted', old, NULL, p_actor);
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'segment-deleted', p_slug, audited(old), NULL);
    RETURN true;
END
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/05_history.sql

-- The one history: when the answer to "is the user in?" changed, and why.

-- When the deletion of its segment ends a membership. A deletion is later than all memberships
-- (raise_high_water_mark). If one were not, the end would still have to be after the start, or the table refuses it.
CREATE OR REPLACE FUNCTION ended_by_deletion(p_since timestamptz, p_deleted_at timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN p_deleted_at > p_since THEN p_deleted_at
                WHEN p_deleted_at <= p_since THEN p_since + interval '1 microsecond' END;

-- Histories, `?at=`, explain and the reports all read `effective_changes`; none of them has rules of its own.

-- Each instant at which the threshold of a segment changed, with what happened to the users in the buckets from
-- `first_bucket` to before `end_bucket`.
CREATE OR REPLACE VIEW rollout_edges AS
SELECT v.segment_id, s.salt, v.started_at AS at,
       CASE WHEN v.threshold > coalesce(before.threshold, 0) THEN 'add' ELSE 'remove' END AS operation,
       least(v.threshold, coalesce(before.threshold, 0)) AS first_bucket,
       greatest(v.threshold, coalesce(before.threshold, 0)) AS end_bucket, 'rollout' AS cause
FROM rollouts v
JOIN segments s ON s.id = v.segment_id
LEFT JOIN rollouts before ON before.segment_id = v.segment_id AND before.ended_at = v.started_at
UNION ALL
SELECT v.segment_id, s.salt, v.ended_at, 'remove', 0, v.threshold,
       CASE WHEN s.deleted_at = v.ended_at THEN 'segment-deleted' ELSE 'rollout' END
FROM rollouts v
JOIN segments s ON s.id = v.segment_id
WHERE v.ended_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM rollouts after WHERE after.segment_id = v.segment_id AND after.started_at = v.ended_at);

-- The overrides, each with the instant at which it stopped holding, stored or not; null: it has no end yet.
CREATE OR REPLACE VIEW override_spans AS
SELECT m.user_id, m.segment_id, m.included, m.since, m.until,
       least(m.ended_at, m.until, ended_by_deletion(m.since, s.deleted_at)) AS ends_at, m.ended_at
FROM memberships m
JOIN segments s ON s.id = m.segment_id;

-- Every change up to `p_as_of`. Conditions on user_id (one or a range), segment_id and at reach the indexes and partitions, because the
-- planner inlines this function like a view (tests/storage/test_plans.py checks that).
-- Within a life of the user, additions and removals of a segment alternate.
CREATE OR REPLACE FUNCTION effective_changes(p_as_of timestamptz)
    RETURNS TABLE (
        user_id bigint, segment_id bigint, at timestamptz, operation text, source text,
        cause text, actor text, reason text, until timestamptz, on_behalf_of text
    )
    LANGUAGE sql STABLE AS $$
    -- Stored events.
    SELECT e.user_id, e.segment_id, e.at, e.operation::text, 'explicit', e.cause::text, e.actor, e.reason, e.until, e.on_behalf_of
    FROM membership_events e
    WHERE e.effective

    UNION ALL
    -- Terms that ended and have no event yet. An end changes nothing for users whom the percentage covers.
    SELECT m.user_id, m.segment_id, m.until, 'remove', 'explicit', 'expiry', 'segmentd', NULL, m.until, NULL
    FROM memberships m
    JOIN segments s ON s.id = m.segment_id AND (s.deleted_at IS NULL OR s.deleted_at >= m.until)
    LEFT JOIN rollouts r
           ON r.segment_id = m.segment_id AND r.started_at <= m.until AND (r.ended_at IS NULL OR r.ended_at > m.until)
    WHERE m.ended_at IS NULL
      AND m.until <= p_as_of
      AND (r.threshold IS NULL OR bucket(m.user_id, s.salt) >= r.threshold)

    UNION ALL
    -- Memberships of deleted segments that have no event yet.
    SELECT m.user_id, m.segment_id, ended_by_deletion(m.since, s.deleted_at), 'remove', 'explicit', 'segment-deleted',
           'segmentd', NULL, m.until, NULL
    FROM segments s
    JOIN memberships m ON m.segment_id = s.id AND m.ended_at IS NULL AND m.included
    WHERE s.deleted_at <= p_as_of
      AND (m.until IS NULL OR m.until > s.deleted_at)

    UNION ALL
    -- The start of a life adds the segments whose percentages cover the user then.
    SELECT l.user_id, r.segment_id, l.registered_at, 'add', 'rollout', 'rollout', 'segmentd', NULL, NULL, NULL
    FROM registrations l
    JOIN rollouts r ON r.started_at <= l.registered_at AND (r.ended_at IS NULL OR r.ended_at > l.registered_at)
    JOIN segments s ON s.id = r.segment_id
    WHERE bucket(l.user_id, s.salt) < r.threshold

    UNION ALL
    -- A percentage changes within a life, and no override decides then. An override that ends at that very instant has
    -- an event of its own. Overrides do not overlap, so only the one that began last can decide. They are asked for
    -- after the buckets, which costs nothing (CASE). IS TRUE is no condition for an index: with one, the planner walks
    -- over the registrations once for each edge; without it, once for all edges.
    SELECT l.user_id, e.segment_id, e.at, e.operation, 'rollout', e.cause, 'segmentd', NULL, NULL, NULL
    FROM registrations l
    JOIN rollout_edges e ON (l.registered_at < e.at) IS TRUE AND (l.ended_at IS NULL OR l.ended_at > e.at)
    WHERE CASE WHEN bucket(l.user_id, e.salt) < e.first_bucket OR bucket(l.user_id, e.salt) >= e.end_bucket THEN false
          ELSE coalesce((
              SELECT coalesce(least(m.ended_at, m.until) < e.at, false)
              FROM memberships m
              WHERE m.segment_id = e.segment_id AND m.user_id = l.user_id AND m.since <= e.at
              ORDER BY m.since DESC
              LIMIT 1
          ), true) END

    UNION ALL
    -- The end of a life removes the segments whose percentages cover the user then.
    SELECT l.user_id, r.segment_id, l.ended_at, 'remove', 'rollout', 'user-deleted', 'segmentd', NULL, NULL, NULL
    FROM registrations l
    JOIN rollouts r ON r.started_at < l.ended_at AND (r.ended_at IS NULL OR r.ended_at >= l.ended_at)
    JOIN segments s ON s.id = r.segment_id
    WHERE CASE WHEN bucket(l.user_id, s.salt) >= r.threshold THEN false
          ELSE coalesce((
              SELECT coalesce(least(m.ended_at, m.until) < l.ended_at, false)
              FROM memberships m
              WHERE m.segment_id = r.segment_id AND m.user_id = l.user_id AND m.since <= l.ended_at
              ORDER BY m.since DESC
              LIMIT 1
          ), true) END
$$;

-- The latest change of one segment for one user, up to and including `p_at`. Within a life of the user it comes from the
-- history; outside of every life, as for an unknown id, from the percentages alone.
-- It is found at one end of each index, so its cost does not grow with the length of the life.
CREATE OR REPLACE FUNCTION latest_change(p_user_id bigint, p_segment_id bigint, p_at timestamptz)
    RETURNS TABLE (at timestamptz, operation text, cause text)
    LANGUAGE sql STABLE AS $$
    WITH life AS MATERIALIZED (
        SELECT latest.registered_at
        FROM (
            SELECT l.registered_at, l.ended_at
            FROM registrations l
            WHERE l.user_id = p_user_id AND l.registered_at <= p_at
            ORDER BY l.registered_at DESC
            LIMIT 1
        ) latest
        WHERE latest.ended_at IS NULL OR latest.ended_at > p_at
    )
    -- Where the history before was removed: the latest change before that, from which on everything is known again.
    , earlier AS MATERIALIZED (
        SELECT e.as_of, e.at, e.operation::text, e.cause
        FROM earlier_changes e
        WHERE e.user_id = p_user_id AND e.segment_id = p_segment_id AND e.as_of > (SELECT registered_at FROM life)
    )
    -- The latest stored event: nothing before it has to be read.
    , written AS MATERIALIZED (
        SELECT e.at
        FROM membership_events e
        WHERE e.user_id = p_user_id
          AND e.segment_id = p_segment_id
          AND e.effective
          AND e.at >= coalesce((SELECT r.as_of FROM earlier r), (SELECT registered_at FROM life))
          AND e.at <= p_at
        ORDER BY e.at DESC
        LIMIT 1
    )
    SELECT * FROM (
        (
            SELECT c.at, c.operation, c.cause
            FROM effective_changes(p_at) c
            WHERE c.user_id = p_user_id
              AND c.segment_id = p_segment_id
              AND c.at >= coalesce(
                  (SELECT w.at FROM written w), (SELECT r.as_of FROM earlier r), (SELECT registered_at FROM life)
              )
              AND c.at <= p_at
            ORDER BY c.at DESC
            LIMIT 1
        )
        UNION ALL
        SELECT r.at, r.operation, r.cause FROM earlier r WHERE r.at IS NOT NULL
        UNION ALL
        -- The event of the first override may have been removed; the override itself tells the same.
        SELECT o.since, CASE WHEN o.included THEN 'add' ELSE 'remove' END, 'request'
        FROM (
            SELECT m.since, m.included
            FROM memberships m
            WHERE m.user_id = p_user_id
              AND m.segment_id = p_segment_id
              AND m.since >= (SELECT registered_at FROM life)
              AND m.since <= p_at
            ORDER BY m.since
            LIMIT 1
        ) o
        WHERE (SELECT k.begins_at IS NOT NULL FROM kept_history k)
          AND NOT EXISTS (SELECT FROM written)
          AND NOT EXISTS (SELECT FROM earlier)
          AND o.included <> EXISTS (
              SELECT
              FROM rollouts r
              JOIN segments s ON s.id = r.segment_id
              WHERE r.segment_id = p_segment_id
                AND r.started_at <= o.since
                AND (r.ended_at IS NULL OR r.ended_at > o.since)
                AND bucket(p_user_id, s.salt) < r.threshold
          )
        ORDER BY at DESC
        LIMIT 1
    ) known
    UNION ALL
    SELECT * FROM (
        SELECT e.at, e.operation, e.cause
        FROM rollout_edges e
        WHERE NOT EXISTS (SELECT FROM life)
          AND e.segment_id = p_segment_id
          AND e.at <= p_at
          AND bucket(p_user_id, e.salt) >= e.first_bucket
          AND bucket(p_user_id, e.salt) < e.end_bucket
        ORDER BY e.at DESC
        LIMIT 1
    ) unknown
$$;

-- A user's overrides that held at `p_at`. Open overrides are few. Closed ones are read only if the user has changed
-- since `p_at`: for each segment in which the user ever had an override, one place of the index.
CREATE OR REPLACE FUNCTION overrides_at(p_user_id bigint, p_at timestamptz)
    RETURNS TABLE (segment_id bigint, included boolean, until timestamptz)
    LANGUAGE sql STABLE AS $$
    WITH RECURSIVE decided AS (
        (
            SELECT m.segment_id
            FROM memberships m
            WHERE m.user_id = p_user_id AND p_at < (SELECT u.last_at FROM users u WHERE u.id = p_user_id)
            ORDER BY m.segment_id
            LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT m.segment_id
            FROM memberships m
            WHERE m.user_id = p_user_id AND m.segment_id > d.segment_id
            ORDER BY m.segment_id
            LIMIT 1
        )
        FROM decided d
        WHERE d.segment_id IS NOT NULL
    )
    SELECT o.segment_id, o.included, o.until
    FROM override_spans o
    WHERE o.user_id = p_user_id AND o.ended_at IS NULL AND o.since <= p_at AND (o.ends_at IS NULL OR o.ends_at > p_at)
    UNION ALL
    SELECT o.segment_id, o.included, o.until
    FROM decided d
    CROSS JOIN LATERAL (
        SELECT *
        FROM override_spans o
        WHERE o.user_id = p_user_id AND o.segment_id = d.segment_id AND o.since <= p_at
        ORDER BY o.since DESC
        LIMIT 1
    ) o
    WHERE o.ended_at IS NOT NULL AND o.ends_at > p_at
$$;

-- The overrides of a segment that held at `p_at`, an instant at which the segment lived: so its deletion ended none of
-- them. A closed row ended with its term at the latest (a_term_ends_in_time).
CREATE OR REPLACE FUNCTION overrides_of_segment_at(p_segment_id bigint, p_at timestamptz)
    RETURNS TABLE (user_id bigint, included boolean, until timestamptz)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT m.user_id, m.included, m.until
    FROM memberships m
    WHERE m.segment_id = p_segment_id AND m.since <= p_at
      AND m.ended_at IS NULL AND (m.until IS NULL OR m.until > p_at)
    UNION ALL
    SELECT m.user_id, m.included, m.until
    FROM memberships m
    WHERE m.segment_id = p_segment_id AND m.since <= p_at
      AND m.ended_at > p_at
$$;

-- What a slug meant at `p_at`. Where a renamed segment took the slug of a deleted one, the slug means the living one.
-- No row: no segment with this slug lived then.
CREATE OR REPLACE FUNCTION segment_at(p_slug text, p_at timestamptz) RETURNS SETOF segments
    LANGUAGE sql STABLE AS $$
    SELECT *
    FROM segments s
    WHERE s.slug = p_slug AND s.created_at <= p_at AND (s.deleted_at IS NULL OR s.deleted_at > p_at)
    ORDER BY s.deleted_at DESC NULLS FIRST
    LIMIT 1
$$;

-- The segments that a user was in at `p_at`, since when and why: what held then, each with its latest change.
CREATE OR REPLACE FUNCTION segments_at(p_user_id bigint, p_at timestamptz)
    RETURNS TABLE (slug text, source text, since timestamptz, until timestamptz)
    LANGUAGE sql STABLE AS $$
    WITH held AS MATERIALIZED (
        SELECT * FROM overrides_at(p_user_id, p_at)
    )
    SELECT s.slug, i.source, c.at, i.until
    FROM (
        SELECT h.segment_id, 'explicit' AS source, h.until
        FROM held h
        WHERE h.included
        UNION ALL
        SELECT r.segment_id, 'rollout', NULL
        FROM rollouts r
        JOIN segments s ON s.id = r.segment_id
        WHERE r.started_at <= p_at AND (r.ended_at IS NULL OR r.ended_at > p_at)
          AND bucket(p_user_id, s.salt) < r.threshold
          AND NOT EXISTS (SELECT FROM held h WHERE h.segment_id = r.segment_id)
    ) i
    JOIN segments s ON s.id = i.segment_id
    CROSS JOIN LATERAL latest_change(p_user_id, i.segment_id, p_at) c
$$;

-- Why a user was or was not in a segment at `p_at`. No row: no segment with this slug lived then.
CREATE OR REPLACE FUNCTION explain_membership(p_user_id bigint, p_slug text, p_at timestamptz)
    RETURNS TABLE (
        included boolean, until timestamptz, covered boolean, last_change timestamptz, last_operation text,
        last_cause text, percent numeric, bucket bigint, threshold bigint, salt bigint
    )
    LANGUAGE sql STABLE AS $$
    SELECT o.included, o.until, bucket(p_user_id, s.salt) < r.threshold, c.at, c.operation, c.cause,
           r.percent, bucket(p_user_id, s.salt), r.threshold, s.salt
    FROM segment_at(p_slug, p_at) s
    LEFT JOIN rollouts r ON r.segment_id = s.id AND r.started_at <= p_at AND (r.ended_at IS NULL OR r.ended_at > p_at)
    LEFT JOIN LATERAL (
        SELECT *
        FROM override_spans o
        WHERE o.user_id = p_user_id AND o.segment_id = s.id AND o.since <= p_at
        ORDER BY o.since DESC
        LIMIT 1
    ) o ON o.ends_at IS NULL OR o.ends_at > p_at
    LEFT JOIN LATERAL latest_change(p_user_id, s.id, p_at) c ON true
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/06_states.sql

-- What the nodes' replicas are built from.

-- A user's overrides as a replica stores them, big-endian (docs/decisions/0017):
-- one word of 64 bits: the version × 2^20 + the number of overrides;
-- one word of 32 bits for each override, by segment: the segment's id, + 2^30 where it has a term, + 2^31 where it is
-- an exclusion;
-- one word of 64 bits for each term, in the same order: its end in microseconds since 1970.
-- replica/states.py reads it.
CREATE OR REPLACE FUNCTION override_word(p_segment_id bigint, p_included boolean, p_until timestamptz) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN int4send((
        p_segment_id
        + CASE WHEN p_until IS NULL THEN 0 ELSE 1073741824 END
        - CASE WHEN p_included THEN 0 ELSE 2147483648 END
    )::integer);

CREATE OR REPLACE FUNCTION term_word(p_until timestamptz) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN int8send((extract(epoch FROM p_until) * 1000000)::bigint);

-- The states of these users. A user whom no write ever touched has none.
CREATE OR REPLACE FUNCTION user_states(p_user_ids bigint[])
    RETURNS TABLE (user_id bigint, state bytea)
    LANGUAGE sql STABLE AS $$
    SELECT u.id, int8send(u.version * 1048576 + o.overrides) || o.words || o.terms
    FROM users u
    CROSS JOIN LATERAL (
        SELECT count(*) AS overrides,
               coalesce(
                   string_agg(override_word(m.segment_id, m.included, m.until), '' ORDER BY m.segment_id), ''
               ) AS words,
               coalesce(
                   string_agg(term_word(m.until), '' ORDER BY m.segment_id) FILTER (WHERE m.until IS NOT NULL), ''
               ) AS terms
        FROM memberships m
        WHERE m.user_id = u.id AND m.ended_at IS NULL
    ) o
    WHERE u.id = ANY (p_user_ids)
$$;

-- The states of the erased ones among these users: no overrides, and a version above that of every earlier state.
CREATE OR REPLACE FUNCTION erased_states(p_user_ids bigint[])
    RETURNS TABLE (user_id bigint, state bytea)
    LANGUAGE sql STABLE AS $$
    SELECT e.user_id, int8send(max(e.version) * 1048576)
    FROM erasures e
    WHERE e.user_id = ANY (p_user_ids)
      AND NOT EXISTS (SELECT FROM users u WHERE u.id = e.user_id)
    GROUP BY e.user_id
$$;

-- The living segments as replicas store them, each with its threshold if it has a percentage.
CREATE OR REPLACE VIEW replicated_segments AS
SELECT id, slug, salt, threshold FROM living_segments;

-- The catalog's version under which the write of this same statement was made. The function has to be volatile: a
-- stable one sees what was there when the statement began, before the write waited for a change of segments.
CREATE OR REPLACE FUNCTION catalog_version() RETURNS bigint
    LANGUAGE sql VOLATILE
    RETURN (SELECT c.version FROM catalog c);


-----------------------------------------------------------------------------------------------------------------------
-- functions/07_memberships.sql

-- Changes of memberships, each one call in one transaction.

-- The time of a change: after the user's latest event and after the latest change of the catalog, whatever the clock does.
CREATE OR REPLACE FUNCTION time_after(p_last_at timestamptz, p_catalog_at timestamptz) RETURNS timestamptz
    LANGUAGE sql VOLATILE
    RETURN greatest(clock_instant(), p_last_at + interval '2 microseconds', p_catalog_at + interval '2 microseconds');

-- Locks these users' rows, or makes them, and gives the time of a change of each. The ids are different and ascend: all
-- writers lock in this order. A time is read after the lock of its row: the SET lists are evaluated under that lock.
-- `begins_life`: the user was unknown or deleted until now; their life begins a microsecond before the change.
CREATE OR REPLACE FUNCTION lock_users(p_user_ids bigint[], OUT ats timestamptz[], OUT begins_life boolean[])
    LANGUAGE plpgsql AS $$
DECLARE
    catalog_at timestamptz := (SELECT c.last_at FROM catalog c);
    born_at timestamptz;
    some_return boolean;
BEGIN
    -- Nearly all changes are of one user who is known, and an UPDATE takes half the time of the INSERT below.
    IF cardinality(p_user_ids) = 1 THEN
        UPDATE users u
        SET version = u.version + 1, last_at = time_after(u.last_at, catalog_at)
        WHERE u.id = p_user_ids[1] AND u.deleted_at IS NULL
        RETURNING ARRAY [u.last_at], ARRAY [false]
        INTO ats, begins_life;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;

    born_at := time_after('-infinity', catalog_at);
    WITH locked AS (
        INSERT INTO users AS u (id, registered_at, last_at)
        SELECT w.id, born_at - interval '1 microsecond', born_at
        FROM unnest(p_user_ids) AS w (id)
        ORDER BY w.id
        ON CONFLICT (id) DO UPDATE
        SET version = u.version + 1, last_at = time_after(u.last_at, catalog_at)
        -- The row of a user who was known does not have both of these times: `last_at` was after `registered_at`.
        RETURNING u.id, u.last_at, u.deleted_at IS NOT NULL AS returns,
            u.registered_at = born_at - interval '1 microsecond' AND u.last_at = born_at AS is_new
    )
    SELECT ARRAY(SELECT l.last_at FROM locked l ORDER BY l.id),
           ARRAY(SELECT l.returns OR l.is_new FROM locked l ORDER BY l.id),
           EXISTS (SELECT FROM locked l WHERE l.returns)
    INTO ats, begins_life, some_return;

    IF true = ANY (begins_life) THEN
        IF some_return OR EXISTS (SELECT FROM erasures e WHERE e.user_id = ANY (p_user_ids)) THEN
            UPDATE users u
            SET registered_at = l.at - interval '1 microsecond',
                deleted_at = NULL,
                -- Newer than what replicas know of an erased life with this id, even if the clock was set back.
                version = greatest(u.version, (SELECT max(e.version) + 1 FROM erasures e WHERE e.user_id = u.id))
            FROM unnest(p_user_ids, ats, begins_life) AS l (id, at, begins)
            WHERE l.begins
              AND u.id = l.id
              AND (u.deleted_at IS NOT NULL OR EXISTS (SELECT FROM erasures e WHERE e.user_id = l.id));
        END IF;
        INSERT INTO registrations (user_id, registered_at)
        SELECT l.id, l.at - interval '1 microsecond'
        FROM unnest(p_user_ids, ats, begins_life) AS l (id, at, begins)
        WHERE l.begins;
    END IF;
END
$$;

-- Writes the events that are due by `p_at` for these users, whose rows the caller has locked: of terms that ended and
-- of segments that were deleted (docs/decisions/0011). An event has exactly the time at which readers saw the change.
-- Returns the latest of these times, or null.
CREATE OR REPLACE FUNCTION settle(p_user_ids bigint[], p_at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql AS $$
DECLARE
    events membership_events[];
    due_month timestamptz;
BEGIN
    WITH closed AS (
        UPDATE memberships m
        SET ended_at = least(m.until, ended_by_deletion(m.since, s.deleted_at))
        FROM segments s
        WHERE s.id = m.segment_id
          AND m.user_id = ANY (p_user_ids)
          AND m.ended_at IS NULL
          AND least(m.until, s.deleted_at) <= p_at
        RETURNING m.user_id, m.segment_id, m.included, m.until, m.ended_at, s.salt
    )
    SELECT array_agg(ROW (
        c.user_id, c.segment_id, c.ended_at, 'remove',
        -- A term's end changes nothing for users whom the percentage of that instant covers.
        c.included AND NOT coalesce(bucket(c.user_id, c.salt) < r.threshold, false),
        c.until,
        CASE WHEN c.ended_at = c.until THEN 'expiry' ELSE 'segment-deleted' END::event_cause,
        'segmentd', NULL, pg_current_xact_id(), NULL
    )::membership_events)
    INTO events
    FROM closed c
    LEFT JOIN rollouts r
           ON r.segment_id = c.segment_id
          AND r.started_at <= c.ended_at
          AND (r.ended_at IS NULL OR r.ended_at > c.ended_at);

    IF events IS NULL THEN
        RETURN NULL;
    END IF;
    FOR due_month IN SELECT DISTINCT date_trunc('month', e.at, 'UTC') FROM unnest(events) e LOOP
        PERFORM ensure_event_partition(due_month);
    END LOOP;
    INSERT INTO membership_events SELECT * FROM unnest(events);
    RETURN (SELECT max(e.at) FROM unnest(events) e);
END
$$;

-- Settles these users, whose rows the caller has locked, before a change of each at its time, and gives the times of the
-- changes: the end of a term and a change at that very time get two instants, so that history shows their order.
CREATE OR REPLACE FUNCTION settle_before_changes(p_user_ids bigint[], p_ats timestamptz[]) RETURNS timestamptz[]
    LANGUAGE plpgsql AS $$
DECLARE
    ats timestamptz[] := p_ats;
    latest_at timestamptz := '-infinity';
    month timestamptz;
BEGIN
    FOR place IN 1 .. cardinality(ats) LOOP
        latest_at := greatest(latest_at, ats[place]);
        IF date_trunc('month', ats[place], 'UTC') IS DISTINCT FROM month THEN
            month := date_trunc('month', ats[place], 'UTC');
            IF to_regclass(event_partition(month)) IS NULL THEN
                PERFORM ensure_event_partition(month);
            END IF;
        END IF;
    END LOOP;
    -- Almost always nothing is due, and a look by an index for each of the two says so.
    -- OFFSET 0: the terms are found by their users, not by the time, at which there may be very many.
    IF NOT EXISTS (
        SELECT
        FROM (
            SELECT m.until
            FROM memberships m
            WHERE m.user_id = ANY (p_user_ids) AND m.ended_at IS NULL AND m.until IS NOT NULL
            OFFSET 0
        ) t
        WHERE t.until <= latest_at
    ) AND NOT EXISTS (
        SELECT
        FROM memberships m
        WHERE m.user_id = ANY (p_user_ids)
          AND m.ended_at IS NULL
          AND m.segment_id = ANY (ARRAY(SELECT d.id FROM segments_to_settle d))
    ) THEN
        RETURN ats;
    END IF;
    FOR place IN 1 .. cardinality(ats) LOOP
        WHILE settle(ARRAY [p_user_ids[place]], ats[place]) = ats[place] LOOP
            ats[place] := ats[place] + interval '1 microsecond';
            UPDATE users SET last_at = ats[place] WHERE id = p_user_ids[place];
        END LOOP;
    END LOOP;
    RETURN ats;
END
$$;

-- Who is in at `p_at`, or at the latest change of the catalog where that is later: an override that holds decides,
-- else the rollout. Overrides that are open end after their user's latest write.
CREATE OR REPLACE FUNCTION current_segments(p_user_ids bigint[], p_at timestamptz)
    RETURNS TABLE (user_id bigint, slug text)
    LANGUAGE sql STABLE AS $$
    -- Materialized: otherwise, for many users, the planner reads all memberships again for each rollout.
    WITH overrides AS MATERIALIZED (
        SELECT m.user_id, m.segment_id, m.included
        FROM memberships m
        WHERE m.user_id = ANY (p_user_ids)
          AND m.ended_at IS NULL
          AND (m.until IS NULL OR m.until > (SELECT greatest(p_at, c.last_at) FROM catalog c))
    )
    SELECT o.user_id, s.slug
    FROM overrides o
    JOIN segments s ON s.id = o.segment_id
    WHERE o.included
      AND s.deleted_at IS NULL
    UNION ALL
    SELECT u.user_id, s.slug
    FROM unnest(p_user_ids) AS u (user_id)
    CROSS JOIN rollouts r
    JOIN segments s ON s.id = r.segment_id
    WHERE r.ended_at IS NULL
      AND bucket(u.user_id, s.salt) < r.threshold
      AND NOT EXISTS (SELECT FROM overrides o WHERE o.user_id = u.user_id AND o.segment_id = r.segment_id)
$$;

-- What each of these users is in after a change of them at this time, as the slugs with commas between; null for nothing.
-- The function has to be volatile: a stable one would not see what the statement that calls it has written.
CREATE OR REPLACE FUNCTION segments_after_changes(p_user_ids bigint[], p_ats timestamptz[]) RETURNS text[]
    LANGUAGE sql VOLATILE
    RETURN ARRAY(
        SELECT (
            SELECT string_agg(c.slug, ',' ORDER BY c.slug COLLATE "C")
            FROM current_segments(ARRAY [w.id], w.at) c
        )
        FROM unnest(p_user_ids, p_ats) WITH ORDINALITY AS w (id, at, number)
        ORDER BY w.number
    );

-- What decides about a user and a segment: an override that holds, or null; else the percentage, or null. The numbers
-- are those of domain/decisions.py.
CREATE OR REPLACE FUNCTION decided(p_included boolean, p_threshold bigint, p_user_id bigint, p_salt bigint)
    RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN p_included THEN 4
        WHEN NOT p_included THEN 3
        WHEN p_threshold IS NULL THEN 0
        WHEN bucket(p_user_id, p_salt) < p_threshold THEN 2
        ELSE 1
    END
$$;

-- The override of a user and a segment that holds at `p_at`, or at the latest change of the catalog where that is
-- later; null: there is none.
CREATE OR REPLACE FUNCTION override_at(p_user_id bigint, p_segment_id bigint, p_at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN (
        SELECT m.included
        FROM memberships m
        WHERE m.user_id = p_user_id
          AND m.segment_id = p_segment_id
          AND m.ended_at IS NULL
          AND (m.until IS NULL OR m.until > (SELECT greatest(p_at, c.last_at) FROM catalog c))
    );

-- What decides about a user and each living segment at `p_at`, or at the latest change of the catalog.
CREATE OR REPLACE FUNCTION current_decisions(p_user_id bigint, p_at timestamptz)
    RETURNS TABLE (slug text, decision integer)
    LANGUAGE sql STABLE AS $$
    SELECT s.slug, decided(m.included, s.threshold, p_user_id, s.salt)
    FROM living_segments s
    LEFT JOIN memberships m
           ON m.user_id = p_user_id
          AND m.segment_id = s.id
          AND m.ended_at IS NULL
          AND (m.until IS NULL OR m.until > (SELECT greatest(p_at, c.last_at) FROM catalog c))
$$;

-- How many bytes the slugs of these different users take as JSON, or an upper bound of that which is at most `p_enough`:
-- the slugs are counted only if all living segments for each of the users would be more than `p_enough`.
CREATE OR REPLACE FUNCTION lookup_bytes(p_user_ids bigint[], p_at timestamptz, p_enough bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    size bigint;
BEGIN
    SELECT cardinality(p_user_ids) * coalesce(sum(length(s.slug) + 3), 0)
    INTO size
    FROM segments s
    WHERE s.deleted_at IS NULL;
    IF size > p_enough THEN
        SELECT coalesce(sum(length(c.slug) + 3), 0) INTO size FROM current_segments(p_user_ids, p_at) c;
    END IF;
    RETURN size;
END
$$;

-- Whether a term is not ahead of its change, or ends after the year 9999.
CREATE OR REPLACE FUNCTION is_out_of_range(p_until timestamptz, p_at timestamptz) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN p_until <= p_at OR p_until >= '10000-01-01 00:00:00+00';

-- What a decision does to a user who was in or not, by an override that holds, perhaps with a term, or by the percentage;
-- `p_threshold` is null where there is none. The planner inlines this function.
CREATE OR REPLACE FUNCTION change_outcome(
    p_adds boolean, p_until timestamptz, p_was_in boolean, p_overridden boolean, p_old_until timestamptz,
    p_threshold bigint
) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN p_adds AND NOT p_was_in THEN 'added'
        WHEN p_adds AND (NOT p_overridden OR p_until IS DISTINCT FROM p_old_until) THEN 'updated'
        WHEN NOT p_adds AND p_was_in THEN 'removed'
        -- Removing a user who is not in makes an exclusion only if there is a percentage to be excluded from.
        WHEN NOT p_adds AND NOT p_overridden AND p_threshold IS NOT NULL THEN 'updated'
        ELSE 'unchanged'
    END;

-- The users among these whose change can be made: none of its decisions is going to be refused, and no other transaction
-- holds the user. Their rows are locked; new ones have none yet. So a refused change registers and touches nobody.
CREATE OR REPLACE FUNCTION users_to_change(
    p_user_ids bigint[], p_places integer[], p_slugs text[], p_untils timestamptz[], p_ttl_seconds bigint[]
) RETURNS bigint[]
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := clock_instant();
    refused_ids bigint[] := ARRAY(
        SELECT p_user_ids[w.place]
        FROM unnest(p_places, p_slugs, p_untils, p_ttl_seconds) AS w (place, slug, until, ttl_seconds)
        LEFT JOIN LATERAL (
            SELECT s.id FROM segments s WHERE s.slug = w.slug AND s.deleted_at IS NULL OFFSET 0
        ) s ON true
        WHERE s.id IS NULL
           OR is_out_of_range(coalesce(w.until, now_at + w.ttl_seconds * interval '1 second'), now_at)
    );
    held_ids bigint[] := ARRAY(
        SELECT u.id
        FROM users u
        WHERE u.id = ANY (p_user_ids) AND u.id <> ALL (refused_ids)
        ORDER BY u.id
        FOR NO KEY UPDATE SKIP LOCKED
    );
BEGIN
    IF held_ids = p_user_ids THEN
        RETURN held_ids;
    END IF;
    -- Another transaction may be making one of the new users: do not wait for it for long.
    PERFORM set_config('lock_timeout', '50ms', true);
    RETURN ARRAY(
        SELECT w.id
        FROM unnest(p_user_ids) AS w (id)
        WHERE w.id = ANY (held_ids)
           OR (w.id <> ALL (refused_ids) AND NOT EXISTS (SELECT FROM users u WHERE u.id = w.id))
        ORDER BY w.id
    );
END
$$;

-- Raises SG404 for the unknown slugs among these changes, or else SG422 for the terms that are out of range.
CREATE OR REPLACE FUNCTION refuse(p_changes membership_change[], p_slugs text[]) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    unknown jsonb;
    out_of_range jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_array(c.place, c.slug)) FILTER (WHERE c.outcome = 'no-such-segment'),
           jsonb_agg(jsonb_build_array(c.place, c.slug)) FILTER (WHERE c.outcome = 'term-out-of-range')
    INTO unknown, out_of_range
    FROM unnest(p_changes, p_slugs)
         AS c (place, user_id, segment_id, at, adds, until, closes, opens, outcome, slug);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'unknown segments' USING ERRCODE = 'SG404', DETAIL = unknown;
    END IF;
    RAISE EXCEPTION 'terms out of range' USING ERRCODE = 'SG422', DETAIL = out_of_range;
END
$$;

-- Adds and removes segments of these users. The ids are different and ascend; each user has an actor, a reason and
-- perhaps somebody on whose behalf, or one element of each is for all. The other five arrays are parallel, one element
-- for each decision: the user's place in `p_user_ids`, the slug, add or remove, and for an add its term, as an instant
-- or in seconds.
--
-- `p_together`: all or nothing; waits for users whom another transaction holds. Raises SG404 with the unknown slugs,
-- SG422 with the slugs whose term is out of range, each in DETAIL as a JSON array of places and slugs.
-- Otherwise each user for itself: where one decision of a user is refused, nothing of that user is changed, and users
-- whom another transaction holds are left out. Raises SG409 if a term goes by before its user is locked: the caller has to
-- make these changes one by one, together.
--
-- `outcomes` are parallel to the decisions: added, removed, updated or unchanged; of a refused decision
-- no-such-segment, term-out-of-range or user-is-locked. `ats` and `states` (user_states) are parallel to the users; the
-- states are null without `p_with_states`.
--
-- The settings hold the planner to one generic plan by indexes: planning would cost more than all the rest, and a plan
-- that was made for empty tables is kept (docs/decisions/0074).
CREATE OR REPLACE FUNCTION change_memberships(
    p_user_ids bigint[],
    p_actors text[],
    p_reasons text[],
    p_on_behalf_of text[],
    p_places integer[],
    p_slugs text[],
    p_adds boolean[],
    p_untils timestamptz[],
    p_ttl_seconds bigint[],
    p_together boolean,
    p_with_states boolean DEFAULT true,
    OUT outcomes text[],
    OUT ats timestamptz[],
    OUT states bytea[],
    OUT xid bigint,
    OUT catalog_version bigint
)
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    held_ids bigint[] := p_user_ids;
    asking integer := cardinality(p_actors);
    changes membership_change[];
    change membership_change;
    refused_places integer[] := '{}';
    closes boolean := false;
    opens boolean := false;
    changed boolean := false;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    IF NOT p_together THEN
        held_ids := users_to_change(p_user_ids, p_places, p_slugs, p_untils, p_ttl_seconds);
    END IF;
    ats := (lock_users(held_ids)).ats;
    ats := settle_before_changes(held_ids, ats);
    IF held_ids <> p_user_ids THEN
        ats := ARRAY(SELECT ats[array_position(held_ids, w.id)] FROM unnest(p_user_ids) AS w (id));
    END IF;

    changes := ARRAY(
        SELECT ROW (
            d.place, d.user_id, d.segment_id, d.at, d.adds, d.until, d.overridden,
            d.adds OR d.threshold IS NOT NULL,
            CASE
                WHEN d.segment_id IS NULL THEN 'no-such-segment'
                WHEN d.at IS NULL THEN 'user-is-locked'
                WHEN is_out_of_range(d.until, d.at) THEN 'term-out-of-range'
                ELSE change_outcome(d.adds, d.until, d.was_in, d.overridden, d.old_until, d.threshold)
            END
        )::membership_change
        FROM (
            SELECT w.number, w.place, p_user_ids[w.place] AS user_id, ats[w.place] AS at, s.id AS segment_id, w.adds,
                   coalesce(w.until, ats[w.place] + w.ttl_seconds * interval '1 second') AS until,
                   r.threshold, m.included IS NOT NULL AS overridden, m.until AS old_until,
                   coalesce(m.included, bucket(p_user_ids[w.place], s.salt) < r.threshold, false) AS was_in
            FROM unnest(p_places, p_slugs, p_adds, p_untils, p_ttl_seconds)
                 WITH ORDINALITY AS w (place, slug, adds, until, ttl_seconds, number)
            -- OFFSET 0: one look into an index for each decision, whatever the planner knows about the tables. Without
            -- it, it read all segments and percentages, or all members of a segment.
            LEFT JOIN LATERAL (
                SELECT s.id, s.salt FROM segments s WHERE s.slug = w.slug AND s.deleted_at IS NULL OFFSET 0
            ) s ON true
            LEFT JOIN LATERAL (
                SELECT r.threshold FROM rollouts r WHERE r.segment_id = s.id AND r.ended_at IS NULL OFFSET 0
            ) r ON true
            LEFT JOIN LATERAL (
                SELECT m.included, m.until
                FROM memberships m
                WHERE m.user_id = p_user_ids[w.place] AND m.segment_id = s.id AND m.ended_at IS NULL
                OFFSET 0
            ) m ON true
            -- Keeps each expression from being evaluated several times.
            OFFSET 0
        ) d
        ORDER BY d.number
    );

    FOREACH change IN ARRAY changes LOOP
        outcomes := outcomes || change.outcome;
        IF change.outcome IN ('added', 'removed', 'updated') THEN
            changed := true;
            closes := closes OR change.closes;
            opens := opens OR change.opens;
        ELSIF change.outcome <> 'unchanged' THEN
            refused_places := refused_places || change.place;
            IF change.at IS NOT NULL AND NOT p_together THEN
                RAISE EXCEPTION 'a term has gone by meanwhile' USING ERRCODE = 'SG409';
            END IF;
        END IF;
    END LOOP;
    IF cardinality(refused_places) > 0 THEN
        IF p_together THEN
            PERFORM refuse(changes, p_slugs);
        END IF;
        changes := ARRAY(SELECT c FROM unnest(changes) c WHERE c.place <> ALL (refused_places));
    END IF;

    IF closes THEN
        UPDATE memberships m
        SET ended_at = c.at
        FROM unnest(changes) c
        WHERE c.closes AND c.outcome <> 'unchanged'
          AND m.user_id = c.user_id AND m.segment_id = c.segment_id AND m.ended_at IS NULL;
    END IF;
    IF opens THEN
        INSERT INTO memberships (user_id, segment_id, included, since, until)
        SELECT c.user_id, c.segment_id, c.adds, c.at, c.until
        FROM unnest(changes) c
        WHERE c.opens AND c.outcome <> 'unchanged';
    END IF;
    IF changed THEN
        INSERT INTO membership_events (
            user_id, segment_id, at, operation, effective, until, cause, actor, reason, on_behalf_of
        )
        SELECT c.user_id, c.segment_id, c.at, (CASE WHEN c.adds THEN 'add' ELSE 'remove' END)::event_operation,
               c.outcome <> 'updated', c.until, 'request',
               p_actors[least(c.place, asking)], p_reasons[least(c.place, asking)], p_on_behalf_of[least(c.place, asking)]
        FROM unnest(changes) c
        WHERE c.outcome <> 'unchanged';
    END IF;

    SELECT c.version INTO catalog_version FROM catalog c;
    IF p_with_states THEN
        states := ARRAY(SELECT (SELECT s.state FROM user_states(ARRAY [w.id]) s) FROM unnest(p_user_ids) AS w (id));
    END IF;
    xid := pg_current_xact_id()::text::bigint;
END
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/08_users.sql

-- Registration, deletion and erasure of users, each one call in one transaction.

-- An id that no user has (docs/decisions/0045). Each taken id is passed over only once, in pieces of an index. The
-- sequence moves only over taken ids and ids that it gave out, so a client that chooses ids cannot drive it far ahead.
-- A rollback does not move it back. The caller has to expect that another transaction takes the id at the same moment.
CREATE OR REPLACE FUNCTION next_free_user_id() RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    piece CONSTANT bigint := 10000;
    found_id bigint;
    passed_over bigint;
BEGIN
    LOOP
        found_id := nextval('assigned_user_ids');
        IF NOT EXISTS (SELECT FROM users u WHERE u.id = found_id) THEN
            RETURN found_id;
        END IF;
        -- How many taken ids follow without a gap.
        SELECT count(*)
        INTO passed_over
        FROM (
            SELECT u.id, row_number() OVER (ORDER BY u.id) AS place
            FROM users u
            WHERE u.id > found_id AND u.id <= found_id + piece
        ) taken
        WHERE taken.id = found_id + taken.place;
        PERFORM setval('assigned_user_ids', greatest(s.last_value, found_id + passed_over))
        FROM assigned_user_ids s;
    END LOOP;
END
$$;

-- Registers a user; without an id, gives out one that nobody has ever had. No row: the user is registered already.
CREATE OR REPLACE FUNCTION register_user(p_user_id bigint, p_name text)
    RETURNS TABLE (id bigint, name text, registered_at timestamptz)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    new_id bigint := p_user_id;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    IF new_id IS NULL THEN
        LOOP
            new_id := next_free_user_id();
            -- A client may have registered this very id at the same moment.
            EXIT WHEN (SELECT l.begins_life[1] FROM lock_users(ARRAY [new_id]) l);
        END LOOP;
    ELSIF EXISTS (SELECT FROM users u WHERE u.id = new_id AND u.deleted_at IS NULL) THEN
        RETURN;
    -- Of two that register one id at once, the second finds a life that has begun.
    ELSIF NOT (SELECT l.begins_life[1] FROM lock_users(ARRAY [new_id]) l) THEN
        RETURN;
    END IF;
    RETURN QUERY
        UPDATE users u SET name = p_name WHERE u.id = new_id RETURNING u.id, u.name, u.registered_at;
END
$$;

-- Ends a user's life, memberships and exclusions, and keeps the history. Returns the user's state for replicas
-- (user_states); null: there is no such user.
CREATE OR REPLACE FUNCTION delete_user(p_user_id bigint, p_actor text, p_on_behalf_of text DEFAULT NULL) RETURNS bytea
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    PERFORM FROM users u WHERE u.id = p_user_id AND u.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT (settle_before_changes(ARRAY [p_user_id], l.ats))[1] INTO now_at FROM lock_users(ARRAY [p_user_id]) l;

    WITH closed AS (
        UPDATE memberships m SET ended_at = now_at
        WHERE m.user_id = p_user_id AND m.ended_at IS NULL
        RETURNING m.segment_id, m.included, m.until
    )
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, until, cause, actor, on_behalf_of)
    SELECT p_user_id, c.segment_id, now_at, 'remove', c.included, c.until, 'user-deleted', p_actor, p_on_behalf_of
    FROM closed c;

    UPDATE registrations SET ended_at = now_at WHERE user_id = p_user_id AND ended_at IS NULL;
    UPDATE users SET deleted_at = now_at, last_at = now_at, name = NULL WHERE id = p_user_id;
    RETURN (SELECT u.state FROM user_states(ARRAY [p_user_id]) u);
END
$$;

-- Removes everything that is known of a user, the history included, and ends the links of all reports that may name
-- them (docs/decisions/0018). Returns the user's state for replicas (erased_states); null: nothing was known.
CREATE OR REPLACE FUNCTION erase_user(
    p_user_id bigint, p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
) RETURNS bytea
    LANGUAGE plpgsql AS $$
DECLARE
    old_version bigint;
    decided_ids bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    SELECT u.version INTO old_version FROM users u WHERE u.id = p_user_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- Of some decisions the event was removed already, of some the override.
    decided_ids := ARRAY(
        SELECT e.segment_id FROM membership_events e WHERE e.user_id = p_user_id
        UNION
        SELECT m.segment_id FROM memberships m WHERE m.user_id = p_user_id
        UNION
        SELECT r.segment_id FROM earlier_changes r WHERE r.user_id = p_user_id
        ORDER BY 1
    );
    DELETE FROM membership_events WHERE user_id = p_user_id;
    DELETE FROM earlier_changes WHERE user_id = p_user_id;
    DELETE FROM memberships WHERE user_id = p_user_id;
    DELETE FROM registrations WHERE user_id = p_user_id;
    DELETE FROM users WHERE id = p_user_id;
    INSERT INTO erasures (user_id, version, at, segment_ids, actor, on_behalf_of)
    VALUES (p_user_id, old_version + 1, clock_instant(), decided_ids, p_actor, p_on_behalf_of);
    UPDATE reports r
    SET expires_at = greatest(clock_instant(), r.created_at + interval '1 microsecond'), user_id = NULL
    WHERE (r.user_id IS NULL OR r.user_id = p_user_id) AND r.expires_at > clock_instant();
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'user-erased', NULL, NULL, NULL);
    RETURN (SELECT e.state FROM erased_states(ARRAY [p_user_id]) e);
END
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/09_upkeep.sql

-- Events that background jobs write. Readers never wait for them: they see the same answers before and after.

-- Settles those of these users whom no other transaction has locked. The next write to the others, or the next round,
-- settles them. Returns who was settled.
CREATE OR REPLACE FUNCTION settle_unlocked(p_user_ids bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql AS $$
DECLARE
    locked_ids bigint[] := ARRAY(
        SELECT u.id FROM users u WHERE u.id = ANY (p_user_ids) ORDER BY u.id FOR UPDATE SKIP LOCKED
    );
    latest timestamptz;
BEGIN
    IF cardinality(locked_ids) = 0 THEN
        RETURN locked_ids;
    END IF;
    -- The clock is read after the locks, and `settle` reads the terms again: it does not touch a renewed one.
    latest := settle(locked_ids, greatest(clock_instant(), (SELECT c.last_at FROM catalog c)));
    UPDATE users u
    SET version = u.version + 1, last_at = greatest(u.last_at, latest)
    WHERE u.id = ANY (locked_ids);
    RETURN locked_ids;
END
$$;

-- One batch of terms that ended, after the given place, in the order of their ends. Gives the place after which the
-- next batch begins; nulls when there are no more.
CREATE OR REPLACE FUNCTION settle_due_terms(
    p_limit integer, INOUT after_until timestamptz, INOUT after_user_id bigint, OUT settled integer
)
    LANGUAGE plpgsql AS $$
DECLARE
    due_by timestamptz := clock_instant();
    user_ids bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    SELECT array_agg(DISTINCT d.user_id), (array_agg(d.until ORDER BY d.until DESC, d.user_id DESC))[1],
           (array_agg(d.user_id ORDER BY d.until DESC, d.user_id DESC))[1]
    INTO user_ids, after_until, after_user_id
    FROM (
        SELECT m.until, m.user_id
        FROM memberships m
        WHERE m.ended_at IS NULL AND m.until <= due_by AND (m.until, m.user_id) > (after_until, after_user_id)
        ORDER BY m.until, m.user_id
        LIMIT p_limit
    ) d;
    settled := cardinality(settle_unlocked(coalesce(user_ids, '{}')));
END
$$;

-- One batch of the open memberships of one deleted segment, after the given user. Gives the user after whom the next
-- batch begins; null when there are no more.
-- `settled_to` is the user up to whom nobody is left. The next round begins there, after a crash too: the entries of
-- those before stay in the index until the next vacuum, and reading them costs as much as settling them.
CREATE OR REPLACE FUNCTION settle_deleted_segment(
    p_segment_id bigint, p_limit integer, INOUT after_user_id bigint, OUT settled integer
)
    LANGUAGE plpgsql AS $$
DECLARE
    began_after CONSTANT bigint := after_user_id;
    user_ids bigint[];
    settled_ids bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    user_ids := ARRAY(
        SELECT m.user_id
        FROM memberships m
        WHERE m.segment_id = p_segment_id AND m.ended_at IS NULL AND m.user_id > began_after
        ORDER BY m.user_id
        LIMIT p_limit
    );
    after_user_id := user_ids[cardinality(user_ids)];
    settled_ids := settle_unlocked(user_ids);
    settled := cardinality(settled_ids);
    -- Nobody gets into a deleted segment, so this stays true. A batch after somebody who was left out changes nothing.
    UPDATE segments s
    SET settled_to = coalesce((SELECT min(l.id) - 1 FROM unnest(user_ids) AS l (id) WHERE l.id <> ALL (settled_ids)),
                              after_user_id, s.settled_to),
        settled_at = CASE WHEN after_user_id IS NULL THEN clock_instant() END
    WHERE s.id = p_segment_id AND s.settled_at IS NULL AND s.settled_to = began_after;
END
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/10_reports.sql

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


-----------------------------------------------------------------------------------------------------------------------
-- functions/11_tokens.sql

-- API tokens, and the keys that sign the links of reports.

-- Makes a token. Raises unique_violation where a token in force has the name, or any token has the secret.
CREATE OR REPLACE FUNCTION create_token(
    p_name text, p_role text, p_digest bytea, p_expires_at timestamptz, p_actor text,
    p_on_behalf_of text DEFAULT NULL
) RETURNS SETOF tokens
    LANGUAGE plpgsql AS $$
DECLARE
    token tokens;
BEGIN
    UPDATE access SET version = version + 1;
    INSERT INTO tokens (name, role, digest, created_at, expires_at)
    VALUES (p_name, p_role, p_digest, clock_instant(), p_expires_at)
    RETURNING * INTO token;
    PERFORM note_in_audit_log(
        p_actor, p_on_behalf_of, 'token-created', p_name, NULL, jsonb_build_object('role', p_role, 'expires_at', p_expires_at)
    );
    RETURN NEXT token;
END
$$;

-- Revokes a token. No row: no token in force has the name.
CREATE OR REPLACE FUNCTION revoke_token(p_name text, p_actor text, p_on_behalf_of text DEFAULT NULL)
    RETURNS SETOF tokens
    LANGUAGE plpgsql AS $$
DECLARE
    token tokens;
BEGIN
    UPDATE access SET version = version + 1;
    UPDATE tokens t
    SET revoked_at = greatest(clock_instant(), t.created_at)
    WHERE t.name = p_name AND t.revoked_at IS NULL
    RETURNING * INTO token;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM note_in_audit_log(
        p_actor, p_on_behalf_of, 'token-revoked', p_name,
        jsonb_build_object('role', token.role, 'expires_at', token.expires_at), NULL
    );
    RETURN NEXT token;
END
$$;

-- Records that these tokens were used today (UTC); writes at most once a day for each token.
CREATE OR REPLACE FUNCTION note_tokens_used(p_ids bigint[]) RETURNS void
    LANGUAGE sql AS $$
    UPDATE tokens
    SET last_used_on = (clock_instant() AT TIME ZONE 'UTC')::date
    WHERE id = ANY (p_ids) AND last_used_on IS DISTINCT FROM (clock_instant() AT TIME ZONE 'UTC')::date
$$;

-- Makes a new key that signs links from now on. The older keys verify links for `p_keep` more.
CREATE OR REPLACE FUNCTION replace_signing_key(p_keep interval, p_actor text) RETURNS void
    LANGUAGE sql AS $$
    UPDATE signing_keys
    SET good_until = clock_instant() + p_keep
    WHERE good_until IS NULL OR good_until > clock_instant() + p_keep;
    INSERT INTO signing_keys (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    SELECT note_in_audit_log(p_actor, NULL, 'signing-key-replaced', NULL, NULL, NULL);
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/12_members.sql

-- Who is in a segment: pages of users, counts, and whom another percentage would move.
--
-- Overrides exist only within lives: the end of a life ends them too. So the overrides of a segment are those of users
-- whom the service knows, with no join.

-- The users whom the service knows: those who are registered now.
CREATE OR REPLACE VIEW known_users AS
SELECT l.user_id FROM registrations l WHERE l.ended_at IS NULL;

-- The users whom the service knew at `p_at`.
CREATE OR REPLACE FUNCTION known_users_at(p_at timestamptz)
    RETURNS TABLE (user_id bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT l.user_id FROM registrations l WHERE l.registered_at <= p_at AND (l.ended_at IS NULL OR l.ended_at > p_at)
$$;

-- The overrides of a living segment that hold now; terms have ended by `p_at`. All that is written has happened, also
-- where the clock stepped back since.
CREATE OR REPLACE FUNCTION overrides_of_segment(p_segment_id bigint, p_at timestamptz)
    RETURNS TABLE (user_id bigint, included boolean, until timestamptz)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT m.user_id, m.included, m.until
    FROM memberships m
    WHERE m.segment_id = p_segment_id AND m.ended_at IS NULL AND (m.until IS NULL OR m.until > p_at)
$$;

-- A page of a segment's members: up to `p_limit` of those after the user `p_after`, by id. It looks at no more than
-- `p_scanned` users, or at so many overrides where no percentage covers anybody; `walked_to` is the last one, null at
-- the end. Members are the included ones, and those whom the percentage covers and for whom no override decides.
--
-- A limit is a subquery where the planner has to read an index in its order. If it knew the number, it would collect
-- entries by a bitmap to sort them, also those that the page does not need.
CREATE OR REPLACE FUNCTION members_after(
    p_segment_id bigint, p_salt bigint, p_threshold bigint, p_at timestamptz,
    p_after bigint, p_scanned integer, p_limit integer
)
    RETURNS TABLE (user_ids bigint[], walked_to bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH page AS MATERIALIZED (
        SELECT CASE WHEN p_threshold > 0 THEN (
            SELECT l.user_id
            FROM registrations l
            WHERE l.user_id > p_after
            ORDER BY l.user_id
            OFFSET p_scanned - 1
            LIMIT 1
        ) ELSE (
            SELECT m.user_id
            FROM memberships m
            WHERE m.segment_id = p_segment_id AND m.user_id > p_after AND m.ended_at IS NULL
            ORDER BY m.user_id
            OFFSET p_scanned - 1
            LIMIT (SELECT 1)
        ) END AS ends_with
    )
    SELECT ARRAY(
        SELECT m.user_id
        FROM (
            (
                SELECT o.user_id
                FROM overrides_of_segment(p_segment_id, p_at) o
                WHERE o.included
                  AND o.user_id > p_after
                  AND o.user_id <= (SELECT coalesce(p.ends_with, 9223372036854775807) FROM page p)
                ORDER BY o.user_id
                LIMIT (SELECT p_limit)
            )
            UNION ALL
            (
                SELECT k.user_id
                FROM known_users k
                WHERE p_threshold > 0
                  AND k.user_id > p_after
                  AND k.user_id <= (SELECT coalesce(p.ends_with, 9223372036854775807) FROM page p)
                  AND bucket(k.user_id, p_salt) < p_threshold
                  AND (SELECT o.included FROM overrides_of_segment(p_segment_id, p_at) o WHERE o.user_id = k.user_id)
                      IS NULL
                ORDER BY k.user_id
                LIMIT (SELECT p_limit)
            )
        ) m
        ORDER BY m.user_id
        LIMIT p_limit
    ), p.ends_with
    FROM page p
$$;

-- The same for an instant at which the segment lived.
CREATE OR REPLACE FUNCTION members_at_after(
    p_segment_id bigint, p_salt bigint, p_threshold bigint, p_at timestamptz,
    p_after bigint, p_scanned integer, p_limit integer
)
    RETURNS TABLE (user_ids bigint[], walked_to bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH page AS MATERIALIZED (
        SELECT CASE WHEN p_threshold > 0 THEN (
            SELECT l.user_id
            FROM registrations l
            WHERE l.user_id > p_after
            ORDER BY l.user_id
            OFFSET p_scanned - 1
            LIMIT 1
        ) ELSE (
            SELECT e.user_id
            FROM (
                (
                    SELECT m.user_id
                    FROM memberships m
                    WHERE m.segment_id = p_segment_id AND m.user_id > p_after AND m.ended_at IS NULL
                    ORDER BY m.user_id
                    LIMIT (SELECT p_scanned)
                )
                UNION ALL
                (
                    SELECT m.user_id
                    FROM memberships m
                    WHERE m.segment_id = p_segment_id AND m.user_id > p_after AND m.ended_at > p_at
                    ORDER BY m.user_id
                    LIMIT (SELECT p_scanned)
                )
            ) e
            ORDER BY e.user_id
            OFFSET p_scanned - 1
            LIMIT 1
        ) END AS ends_with
    )
    SELECT ARRAY(
        SELECT m.user_id
        FROM (
            (
                SELECT o.user_id
                FROM overrides_of_segment_at(p_segment_id, p_at) o
                WHERE o.included
                  AND o.user_id > p_after
                  AND o.user_id <= (SELECT coalesce(p.ends_with, 9223372036854775807) FROM page p)
                ORDER BY o.user_id
                LIMIT (SELECT p_limit)
            )
            UNION ALL
            (
                SELECT k.user_id
                FROM known_users_at(p_at) k
                WHERE p_threshold > 0
                  AND k.user_id > p_after
                  AND k.user_id <= (SELECT coalesce(p.ends_with, 9223372036854775807) FROM page p)
                  AND bucket(k.user_id, p_salt) < p_threshold
                  AND (SELECT o.included FROM overrides_of_segment_at(p_segment_id, p_at) o WHERE o.user_id = k.user_id)
                      IS NULL
                ORDER BY k.user_id
                LIMIT (SELECT p_limit)
            )
        ) m
        ORDER BY m.user_id
        LIMIT p_limit
    ), p.ends_with
    FROM page p
$$;

-- What counts and previews are made from: all users, and the overrides of the segment that hold now, each counted in
-- one pass, with no join between them. `covered` are those below the present threshold, `covered_after` those below
-- another one; `overridden` are the users for whom an override decides, of the covered.
--
-- The open overrides are counted in an index alone. From them are taken the exclusions, and those whose term is over
-- and not yet recorded: both have indexes of their own, and are few.
CREATE OR REPLACE FUNCTION membership_tally(
    p_segment_id bigint, p_salt bigint, p_threshold bigint, p_threshold_after bigint, p_at timestamptz
)
    RETURNS TABLE (
        registered bigint, covered bigint, covered_after bigint,
        explicit bigint, excluded bigint, overridden bigint, overridden_after bigint
    )
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT u.registered, u.covered, u.covered_after, o.open - x.excluded - e.over, x.excluded,
           o.overridden - e.overridden, o.overridden_after - e.overridden_after
    FROM (
        SELECT count(*) AS registered,
               count(*) FILTER (WHERE bucket(k.user_id, p_salt) < p_threshold) AS covered,
               count(*) FILTER (WHERE bucket(k.user_id, p_salt) < p_threshold_after) AS covered_after
        FROM known_users k
    ) u, (
        SELECT count(*) AS open,
               count(*) FILTER (WHERE bucket(m.user_id, p_salt) < p_threshold) AS overridden,
               count(*) FILTER (WHERE bucket(m.user_id, p_salt) < p_threshold_after) AS overridden_after
        FROM memberships m
        WHERE m.segment_id = p_segment_id AND m.ended_at IS NULL
    ) o, (
        SELECT count(*) AS excluded
        FROM memberships m
        WHERE m.segment_id = p_segment_id AND m.ended_at IS NULL AND NOT m.included
    ) x, (
        SELECT count(*) AS over,
               count(*) FILTER (WHERE bucket(m.user_id, p_salt) < p_threshold) AS overridden,
               count(*) FILTER (WHERE bucket(m.user_id, p_salt) < p_threshold_after) AS overridden_after
        FROM memberships m
        WHERE m.segment_id = p_segment_id AND m.ended_at IS NULL AND m.until <= p_at
    ) e
$$;

-- The same for an instant at which the segment lived.
CREATE OR REPLACE FUNCTION membership_tally_at(
    p_segment_id bigint, p_salt bigint, p_threshold bigint, p_at timestamptz
)
    RETURNS TABLE (registered bigint, covered bigint, explicit bigint, excluded bigint, overridden bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT *
    FROM (
        SELECT count(*), count(*) FILTER (WHERE bucket(k.user_id, p_salt) < p_threshold)
        FROM known_users_at(p_at) k
    ) u, (
        -- overrides_of_segment_at in one condition, so that the open and the past ones are read in one scan; by both
        -- their indexes, if they are few.
        SELECT count(*) FILTER (WHERE m.included),
               count(*) FILTER (WHERE NOT m.included),
               count(*) FILTER (WHERE bucket(m.user_id, p_salt) < p_threshold)
        FROM memberships m
        WHERE m.segment_id = p_segment_id AND m.since <= p_at
          AND (m.ended_at IS NULL OR m.ended_at > p_at) AND (m.until IS NULL OR m.until > p_at)
    ) d
$$;

-- The first `p_most` users, by id, whom a change of the threshold moves: those with buckets from `p_low` to before
-- `p_high` for whom no override decides.
CREATE OR REPLACE FUNCTION moved_users(
    p_segment_id bigint, p_salt bigint, p_low bigint, p_high bigint, p_at timestamptz, p_most integer
)
    RETURNS TABLE (user_id bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT k.user_id
    FROM known_users k
    WHERE bucket(k.user_id, p_salt) BETWEEN p_low AND p_high - 1
      AND (SELECT o.included FROM overrides_of_segment(p_segment_id, p_at) o WHERE o.user_id = k.user_id) IS NULL
    ORDER BY k.user_id
    LIMIT (SELECT p_most)
$$;

-- The same where it moves so few that a walk by id would read all users to find them: the processors share the search.
-- The planner may not move the look-up of overrides into the search (OFFSET 0), because it could not be shared then.
CREATE OR REPLACE FUNCTION few_moved_users(
    p_segment_id bigint, p_salt bigint, p_low bigint, p_high bigint, p_at timestamptz, p_most integer
)
    RETURNS TABLE (user_id bigint)
    LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT m.user_id
    FROM (
        SELECT k.user_id FROM known_users k WHERE bucket(k.user_id, p_salt) BETWEEN p_low AND p_high - 1 OFFSET 0
    ) m
    WHERE (SELECT o.included FROM overrides_of_segment(p_segment_id, p_at) o WHERE o.user_id = m.user_id) IS NULL
    ORDER BY m.user_id
    LIMIT p_most
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/13_imports.sql

-- Imports: rows are staged as they come, checked as a set, and applied in batches.

-- Imports begin one after the other: each counts what those before it took.
CREATE OR REPLACE FUNCTION import_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837905;

-- Each batch of an import shares this lock, and its end takes it alone: after the batches in hand, and before all others.
-- A row lock would let one batch after the other go first.
CREATE OR REPLACE FUNCTION import_end_lock(p_number bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    RETURN hashint8extended(p_number, 7236837906);

-- The bytes that all imports store: their lines, what these mean, and their bad rows, each as large as they usually are.
-- Each import counts as 256 KiB at least, so that a bound of bytes bounds their number too.
CREATE OR REPLACE FUNCTION import_bytes() RETURNS bigint
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(greatest(
        CASE WHEN i.staged THEN i.bytes + i.rows * 160 ELSE 0 END + least(i.invalid_rows, 1000000) * 300, 262144
    )), 0)::bigint
    FROM imports i
    WHERE i.staged OR i.invalid_rows > 0
$$;

-- What decides whether an import may begin. Until the transaction ends, others wait.
CREATE OR REPLACE FUNCTION import_load(
    p_caller text, OUT of_caller bigint, OUT of_all bigint, OUT stored_bytes bigint
)
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(import_lock());
    SELECT count(*) FILTER (WHERE i.ordered_by = p_caller), count(*)
    INTO of_caller, of_all
    FROM imports i
    WHERE i.finished_at IS NULL;
    stored_bytes := import_bytes();
END
$$;

-- How far an import was applied.
CREATE OR REPLACE FUNCTION import_progress(
    p_number bigint, OUT users bigint, OUT added bigint, OUT removed bigint, OUT updated bigint, OUT unchanged bigint
)
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(r.users), 0)::bigint, coalesce(sum(r.added), 0)::bigint, coalesce(sum(r.removed), 0)::bigint,
           coalesce(sum(r.updated), 0)::bigint, coalesce(sum(r.unchanged), 0)::bigint
    FROM import_ranges r
    WHERE r.import_number = p_number
$$;

-- What callers see of an import.
CREATE OR REPLACE VIEW shown_imports AS
SELECT i.number, i.id, i.status, i.operation, s.slug AS segment, i.dry_run, i.rows, i.invalid_rows, i.users,
       p.users AS applied_users, p.added, p.removed, p.updated, p.unchanged,
       coalesce((
           SELECT jsonb_agg(jsonb_build_object('line', e.line, 'detail', e.detail, 'text', e.text) ORDER BY e.line)
           FROM (
               SELECT * FROM import_errors e WHERE e.import_number = i.number ORDER BY e.line LIMIT 100
           ) e
       ), '[]') AS errors,
       i.sample, i.reason, i.detail, i.sha256, i.created_at, i.finished_at
FROM imports i
CROSS JOIN LATERAL import_progress(i.number) p
LEFT JOIN segments s ON s.id = i.segment_id;

-- Makes the table of an import's lines. A block is a run of lines.
CREATE OR REPLACE FUNCTION make_import_blocks(p_number bigint) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    blocks text := 'import_blocks_' || p_number;
BEGIN
    EXECUTE format(
        'CREATE TABLE %I (first_line bigint PRIMARY KEY, parsed boolean NOT NULL, content text NOT NULL)', blocks
    );
    -- Compressing takes longer than writing.
    EXECUTE format('ALTER TABLE %I ALTER content SET STORAGE EXTERNAL', blocks);
END
$$;

-- Drops the tables of an import that is final.
CREATE OR REPLACE FUNCTION drop_import_tables(p_number bigint) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I, %I', 'import_blocks_' || p_number, 'import_decisions_' || p_number);
    UPDATE imports SET staged = false WHERE number = p_number;
END
$$;

-- What the audit log shows of an import.
CREATE OR REPLACE FUNCTION audited_import(p_import imports) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('import', p_import.id, 'operation', p_import.operation, 'rows', p_import.rows)
           || CASE WHEN p_import.finished_at IS NULL THEN '{}' ELSE jsonb_build_object(
               'status', p_import.status, 'users', p.users, 'added', p.added, 'removed', p.removed,
               'updated', p.updated, 'unchanged', p.unchanged
           ) END
    FROM import_progress(p_import.number) p
$$;

-- Notes in the audit log what an import begins to change, or has changed. A dry run changes nothing.
CREATE OR REPLACE FUNCTION note_import(p_import imports, p_operation text, p_actor text, p_on_behalf_of text)
    RETURNS void
    LANGUAGE sql AS $$
    SELECT note_in_audit_log(
        p_actor, p_on_behalf_of, p_operation,
        (SELECT s.slug FROM segments s WHERE s.id = p_import.segment_id), NULL, audited_import(p_import)
    )
    WHERE NOT p_import.dry_run
$$;

-- Ends an import, after its batches in hand. False: it had ended before. The audit log has the end of one that began to change users; the actor is
-- the one who ended it.
CREATE OR REPLACE FUNCTION end_import(
    p_number bigint, p_status text, p_detail text, p_actor text DEFAULT 'segmentd', p_on_behalf_of text DEFAULT NULL
) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    old_status text;
    ended imports;
BEGIN
    PERFORM pg_advisory_xact_lock(import_end_lock(p_number));
    SELECT i.status INTO old_status FROM imports i WHERE i.number = p_number AND i.finished_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE imports
    SET status = p_status, detail = p_detail, finished_at = greatest(clock_instant(), created_at)
    WHERE number = p_number
    RETURNING * INTO ended;
    IF old_status = 'applying' THEN
        PERFORM note_import(ended, 'import-ended', p_actor, p_on_behalf_of);
    END IF;
    RETURN true;
END
$$;

-- The instant that a text of RFC 3339 names; null: it names none within the years 1 to 9999. The same as read_instant
-- of domain/instants.py. The offset is applied by hand, because PostgreSQL knows none beyond 15:59.
CREATE OR REPLACE FUNCTION rfc3339_instant(p_text text) RETURNS timestamptz
    LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN i.instant >= '0001-01-01 00:00:00+00' AND i.instant < '10000-01-01 00:00:00+00' THEN i.instant END
    FROM (
        SELECT CASE
            WHEN p.year BETWEEN '0001' AND '9999' AND p.month BETWEEN '01' AND '12'
                AND p.day BETWEEN '01' AND CASE
                    WHEN p.month IN ('04', '06', '09', '11') THEN '30'
                    WHEN p.month <> '02' THEN '31'
                    WHEN p.year::integer % 4 = 0 AND (p.year::integer % 100 <> 0 OR p.year::integer % 400 = 0) THEN '29'
                    ELSE '28'
                END
                AND p.hour < '24' AND p.minute < '60' AND p.second < '60'
                AND coalesce(p.off_hours, '00') < '24' AND coalesce(p.off_minutes, '00') < '60'
            THEN (p.year || '-' || p.month || '-' || p.day || ' ' || p.hour || ':' || p.minute || ':' || p.second)
                 ::timestamp AT TIME ZONE 'UTC'
                 - coalesce((p.sign || p.off_hours || ':' || p.off_minutes)::interval, '0')
        END AS instant
        FROM (
            SELECT m[1] AS year, m[2] AS month, m[3] AS day, m[4] AS hour, m[5] AS minute, m[6] AS second,
                   m[7] AS sign, m[8] AS off_hours, m[9] AS off_minutes
            FROM regexp_match(
                p_text COLLATE "C",
                '^([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]+)?)'
                '(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))$'
            ) AS found (m)
        ) p
    ) i
$$;

-- How an error names a value: by its column where there are columns.
CREATE OR REPLACE FUNCTION import_label(p_import imports, p_name text) RETURNS text
    LANGUAGE sql STABLE
    RETURN coalesce('column ' || (p_import.places ->> p_name) || ' (' || p_name || ')', p_name) || ': ';

-- The SELECT of the values in an import's lines, as text: line, text, width, user_id, segment, operation, until and
-- ttl_seconds. A parsed block has them in this order, a plain one where the header says.
CREATE OR REPLACE FUNCTION import_values_sql(p_import imports) RETURNS text
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    blocks text := quote_ident('import_blocks_' || p_import.number);
    plain text;
    template CONSTANT text := $sql$
        SELECT b.first_line + l.place - 1 AS line, %s AS text, %s AS width, %s
        FROM %s b
        CROSS JOIN LATERAL unnest(string_to_array(b.content, E'\n')) WITH ORDINALITY AS l (text, place)
        CROSS JOIN LATERAL (SELECT %s AS parts OFFSET 0) v
        WHERE %s AND l.text <> ''
    $sql$;
BEGIN
    SELECT string_agg(
        CASE WHEN p_import.places ? name THEN format('nullif(btrim(v.parts[%s]), %L)', p_import.places ->> name, '')
             ELSE 'NULL::text' END || ' AS ' || name,
        ', ' ORDER BY place
    )
    INTO plain
    FROM unnest(ARRAY ['user_id', 'segment', 'operation', 'until', 'ttl_seconds']) WITH ORDINALITY AS c (name, place);
    RETURN concat_ws(
        ' UNION ALL ',
        format(
            template, 'v.parts[6]', coalesce(p_import.width, 0),
            $sql$ nullif(btrim(v.parts[1]), '') AS user_id, nullif(btrim(v.parts[2]), '') AS segment,
                  nullif(btrim(v.parts[3]), '') AS operation, nullif(btrim(v.parts[4]), '') AS until,
                  nullif(btrim(v.parts[5]), '') AS ttl_seconds $sql$,
            blocks, $sql$ string_to_array(l.text, E'\x1f') $sql$, 'b.parsed'
        ),
        CASE WHEN p_import.format = 'csv' THEN format(
            template, 'l.text', 'cardinality(v.parts)', plain, blocks,
            format('string_to_array(l.text, %L)', p_import.separator), 'NOT b.parsed'
        ) END
    );
END
$$;

-- The SELECT of what the rows of an import mean: line, text, user_id, segment_id, adds, until, ttl_seconds, and detail,
-- which says what is wrong; then user_id is null where it cannot be read, and the other values mean nothing.
CREATE OR REPLACE FUNCTION import_rows_sql(p_import imports) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT format(
        $sql$
        SELECT r.line, r.text, r.user_id, r.segment_id, r.adds, r.until, r.ttl_seconds,
            CASE
                WHEN r.width <> %1$L THEN format('has %%s columns, and the first line has %%s', r.width, %1$L)
                WHEN r.user_id IS NULL AND r.user_id_text IS NULL THEN %2$L || 'the id of a user is missing'
                WHEN r.user_id IS NULL
                    THEN %2$L || 'must be an integer from 1 to 9223372036854775807, in digits, not beginning with 0'
                WHEN r.segment_id IS NULL AND r.segment IS NULL
                    THEN %3$L || 'the row names no segment, and the query has none'
                WHEN r.segment_id IS NULL THEN %3$L || 'no living segment has the slug ' || left(r.segment, 128)
                WHEN r.adds IS NULL THEN %4$L || 'must be add or remove'
                WHEN r.until_text IS NOT NULL AND r.ttl_text IS NOT NULL
                    THEN %5$L || 'until and ttl_seconds exclude each other'
                WHEN NOT r.adds AND r.operation IS NOT NULL AND coalesce(r.until_text, r.ttl_text) IS NOT NULL
                    THEN %4$L || 'a removal has no term'
                WHEN r.until_text IS NOT NULL AND r.until IS NULL AND r.adds
                    THEN %5$L || 'a time is written like 2026-11-20T10:15:30Z, with an offset, within the years 1 to 9999'
                WHEN r.until <= %7$L THEN %5$L || 'the term must end in the future'
                WHEN r.ttl_text IS NOT NULL AND r.ttl_seconds IS NULL AND r.adds
                    THEN %6$L || 'must be an integer from 1 to 1000000000000'
                WHEN r.ttl_seconds * interval '1 second' >= '10000-01-01 00:00:00+00' - %7$L::timestamptz
                    THEN %6$L || 'the term must end before the year 10000'
                WHEN %8$L AND r.segment_id <> %9$L
                    THEN %3$L || 'a list that replaces the members of one segment names another one'
                WHEN %8$L AND NOT r.adds
                    THEN %4$L || 'a list that replaces the members of a segment can remove nobody'
            END AS detail
        FROM (
            SELECT v.line, v.text, v.width, v.segment, v.operation, v.user_id AS user_id_text,
                v.until AS until_text, v.ttl_seconds AS ttl_text, o.adds,
                CASE
                    WHEN length(v.user_id) <= 19 AND v.user_id COLLATE "C" !~ '[^0-9]' AND v.user_id COLLATE "C" >= '1'
                        AND (length(v.user_id) < 19 OR v.user_id COLLATE "C" <= '9223372036854775807')
                    THEN v.user_id::bigint
                END AS user_id,
                coalesce(s.id, CASE WHEN v.segment IS NULL THEN %9$L::bigint END) AS segment_id,
                CASE
                    WHEN o.adds AND coalesce(v.until, v.ttl_seconds) IS NULL THEN %10$L::timestamptz
                    WHEN o.adds AND v.until IS NOT NULL THEN rfc3339_instant(v.until)
                END AS until,
                CASE
                    WHEN o.adds AND coalesce(v.until, v.ttl_seconds) IS NULL THEN %11$L::bigint
                    WHEN o.adds AND v.ttl_seconds COLLATE "C" ~ '^[1-9][0-9]{0,11}$|^1000000000000$'
                        THEN v.ttl_seconds::bigint
                END AS ttl_seconds
            FROM (%12$s) v
            LEFT JOIN segments s ON s.slug = v.segment COLLATE "C" AND s.deleted_at IS NULL
            CROSS JOIN LATERAL (
                SELECT CASE WHEN v.operation IS NULL THEN %13$L::boolean WHEN v.operation = 'add' THEN true
                            WHEN v.operation = 'remove' THEN false END AS adds
            ) o
            OFFSET 0
        ) r
        $sql$,
        coalesce(p_import.width, 0),
        import_label(p_import, 'user_id'), import_label(p_import, 'segment'), import_label(p_import, 'operation'),
        import_label(p_import, 'until'), import_label(p_import, 'ttl_seconds'),
        greatest(clock_instant(), (SELECT c.last_at FROM catalog c)),
        p_import.operation = 'replace', p_import.segment_id, p_import.until, p_import.ttl_seconds,
        import_values_sql(p_import), p_import.operation <> 'remove'
    )
$$;

-- The rows of users with more segments than one change may have, from the first one too many on, are bad.
CREATE OR REPLACE FUNCTION refuse_too_many_segments(p_import imports, p_most integer) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    decisions text := quote_ident('import_decisions_' || p_import.number);
BEGIN
    IF (SELECT count(*) FROM segments s WHERE s.deleted_at IS NULL) <= p_most THEN
        RETURN;
    END IF;
    EXECUTE format(
        $sql$
        UPDATE %1$s d
        SET is_bad = true, refused = 'too many'
        FROM (
            SELECT f.user_id, f.segment_id, row_number() OVER (PARTITION BY f.user_id ORDER BY f.line) AS place
            FROM %1$s f
            WHERE NOT f.is_bad
        ) n
        WHERE n.place > %2$L AND d.user_id = n.user_id AND d.segment_id = n.segment_id AND NOT d.is_bad
        $sql$,
        decisions, p_most
    );
END
$$;

-- Stores the first bad rows: what is wrong with them is found by reading all rows again.
CREATE OR REPLACE FUNCTION note_import_errors(p_import imports, p_most bigint, p_most_segments integer) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        $sql$
        INSERT INTO import_errors (import_number, line, detail, text)
        SELECT %L, b.line, b.detail, left(b.text, 200)
        FROM (
            SELECT r.line, r.text,
                coalesce(r.detail, CASE d.refused
                    WHEN 'contradicts' THEN
                        'contradicts line ' || CASE WHEN r.line = d.line THEN d.last_line ELSE d.line END
                    WHEN 'too many' THEN 'the user is in more than %s segments of this file, as no change may have'
                END) AS detail
            FROM (%s) r
            LEFT JOIN (SELECT * FROM %I WHERE refused IS NOT NULL) d
                   ON d.user_id = r.user_id AND d.segment_id = r.segment_id
        ) b
        WHERE b.detail IS NOT NULL
        ORDER BY b.line
        LIMIT %L
        ON CONFLICT DO NOTHING
        $sql$,
        p_import.number, p_most_segments, import_rows_sql(p_import), 'import_decisions_' || p_import.number, p_most
    );
END
$$;

-- Those who are to leave a segment because the list that replaces its members leaves them out: the explicit members of
-- this moment. Who has a row in the list stays as they are, even if the row is bad.
CREATE OR REPLACE FUNCTION add_import_removals(p_import imports) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    decisions text := quote_ident('import_decisions_' || p_import.number);
BEGIN
    EXECUTE format(
        $sql$
        INSERT INTO %1$s (user_id, segment_id, rows, adds, is_bad)
        SELECT m.user_id, m.segment_id, 0, false, false
        FROM memberships m
        WHERE m.segment_id = %2$L AND m.ended_at IS NULL AND m.included
          AND (m.until IS NULL OR m.until > (SELECT p.at FROM present p))
          AND NOT EXISTS (SELECT FROM %1$s d WHERE d.user_id = m.user_id)
        $sql$,
        decisions, p_import.segment_id
    );
END
$$;

-- Why an import of one segment cannot be applied, or not any further; null: it can.
CREATE OR REPLACE FUNCTION import_refusal(p_import imports) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN s.deleted_at IS NOT NULL THEN format('The segment %s was deleted meanwhile.', s.slug)
        WHEN p_import.operation = 'replace'
            AND EXISTS (SELECT FROM rollouts r WHERE r.segment_id = s.id AND r.ended_at IS NULL)
        THEN format('The segment %s has a percentage by now, so its members cannot be replaced.', s.slug)
    END
    FROM segments s
    WHERE s.id = p_import.segment_id
$$;

-- Divides the users of an import into so many ranges with about as many decisions each; few decisions, and those of a dry
-- run, which shows the first ones, are one range.
CREATE OR REPLACE FUNCTION make_import_ranges(p_import imports, p_decisions bigint, p_ranges integer) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    ranges CONSTANT integer := CASE WHEN p_import.dry_run THEN 1 ELSE least(p_ranges, 1 + p_decisions / 1000) END;
    ends_with bigint := 0;
    begins_after bigint;
BEGIN
    FOR place IN 1 .. ranges LOOP
        begins_after := ends_with;
        IF place < ranges THEN
            EXECUTE format(
                'SELECT user_id FROM %I WHERE NOT is_bad AND user_id > $1 ORDER BY user_id OFFSET $2 LIMIT 1',
                'import_decisions_' || p_import.number
            )
            INTO ends_with USING begins_after, p_decisions / ranges;
        ELSE
            ends_with := 9223372036854775807;
        END IF;
        INSERT INTO import_ranges (import_number, place, last_user, applied_to)
        VALUES (p_import.number, place, ends_with, begins_after);
    END LOOP;
END
$$;

-- Checks all rows of an import as a set, and stores what they mean. Nothing is changed yet. A bad row fails the import,
-- unless bad rows are to be skipped. False: the import is not to be checked; the caller then undoes the transaction.
--
-- While it runs, it holds no lock that anybody waits for: a caller may cancel the import meanwhile.
CREATE OR REPLACE FUNCTION check_import(
    p_number bigint, p_most_bad bigint, p_most_segments integer, p_ranges integer
) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    i imports := (SELECT i FROM imports i WHERE i.number = p_number AND i.status = 'checking');
    decisions text := quote_ident('import_decisions_' || p_number);
    bad bigint;
    users_found bigint;
    decisions_found bigint;
    refusal text;
BEGIN
    IF i IS NULL THEN
        RETURN false;
    END IF;
    PERFORM set_config('work_mem', '64MB', true), set_config('maintenance_work_mem', '64MB', true),
            -- The planner does not know how many lines a block has; hash tables of millions of users would spill.
            set_config('enable_hashagg', 'off', true);
    EXECUTE format('DROP TABLE IF EXISTS %s', decisions);
    EXECUTE format(
        'CREATE TABLE %s ('
        '  user_id bigint, segment_id bigint, until timestamptz, ttl_seconds bigint, line bigint, last_line bigint,'
        '  rows bigint NOT NULL, adds boolean, is_bad boolean NOT NULL, refused text'
        ')',
        decisions
    );
    -- In the order of users, so that the batches read the table from its beginning to its end.
    EXECUTE format(
        $sql$
        INSERT INTO %s
        SELECT g.user_id, g.segment_id, g.until, g.ttl_seconds, g.line, g.last_line, g.rows, g.adds,
               g.is_bad OR g.contradicts, CASE WHEN g.contradicts THEN 'contradicts' END
        FROM (
            SELECT r.user_id, r.segment_id, r.is_bad, min(r.until) AS until, min(r.ttl_seconds) AS ttl_seconds,
                   min(r.line) AS line, max(r.line) AS last_line, count(*) AS rows, bool_or(r.adds) AS adds,
                   NOT r.is_bad AND (
                       bool_or(r.adds) <> bool_and(r.adds)
                       OR count(r.until) NOT IN (0, count(*)) OR coalesce(min(r.until) <> max(r.until), false)
                       OR count(r.ttl_seconds) NOT IN (0, count(*))
                       OR coalesce(min(r.ttl_seconds) <> max(r.ttl_seconds), false)
                   ) AS contradicts
            FROM (
                SELECT m.user_id, m.segment_id, m.adds, m.until, m.ttl_seconds, m.line, m.detail IS NOT NULL AS is_bad
                FROM (%s) m
            ) r
            GROUP BY r.user_id, r.segment_id, r.is_bad
        ) g
        ORDER BY g.user_id, g.segment_id
        $sql$,
        decisions, import_rows_sql(i)
    );
    EXECUTE format('CREATE INDEX ON %s (user_id) WHERE NOT is_bad', decisions);
    PERFORM refuse_too_many_segments(i, p_most_segments);
    EXECUTE format('SELECT coalesce(sum(rows), 0) FROM %s WHERE is_bad', decisions) INTO bad;
    IF bad > 0 THEN
        PERFORM note_import_errors(i, p_most_bad, p_most_segments);
    END IF;
    IF i.operation = 'replace' THEN
        PERFORM add_import_removals(i);
    END IF;
    EXECUTE format('ANALYZE %s', decisions);
    EXECUTE format(
        'SELECT count(*), coalesce(sum(u.decisions), 0)'
        ' FROM (SELECT count(*) AS decisions FROM %s WHERE NOT is_bad GROUP BY user_id) u',
        decisions
    )
    INTO users_found, decisions_found;

    bad := bad + i.invalid_rows;
    SELECT CASE
        WHEN i.rows = 0 THEN 'The file has no rows.'
        WHEN bad > p_most_bad THEN format('More than %s rows are bad; is this the right file?', p_most_bad)
        WHEN bad > 0 AND NOT i.skip_invalid THEN format('%s of %s rows are bad; nothing was changed.', bad, i.rows)
        WHEN bad >= i.rows THEN 'All rows are bad; nothing was changed.'
        ELSE import_refusal(i) || ' Nothing was changed.'
    END
    INTO refusal;
    UPDATE imports
    SET status = CASE WHEN refusal IS NULL THEN 'applying' ELSE 'failed' END, detail = refusal, invalid_rows = bad,
        users = users_found, finished_at = CASE WHEN refusal IS NOT NULL THEN greatest(clock_instant(), created_at) END
    WHERE number = p_number AND status = 'checking'
    RETURNING * INTO i;
    IF i IS NULL THEN
        RETURN false;  -- canceled meanwhile
    END IF;
    IF refusal IS NULL THEN
        PERFORM make_import_ranges(i, decisions_found, p_ranges);
        PERFORM note_import(i, 'import-started', i.ordered_by, i.on_behalf_of);
    END IF;
    RETURN true;
END
$$;

-- The text of one line of an import, as it is shown of a bad row.
CREATE OR REPLACE FUNCTION import_line(p_number bigint, p_line bigint) RETURNS text
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    line text;
BEGIN
    EXECUTE format(
        $sql$
        SELECT left(CASE WHEN b.parsed THEN split_part(l.text, E'\x1f', 6) ELSE l.text END, 200)
        FROM (SELECT * FROM %I WHERE first_line <= %L ORDER BY first_line DESC LIMIT 1) b
        CROSS JOIN LATERAL (SELECT split_part(b.content, E'\n', (%L - b.first_line + 1)::integer) AS text) l
        $sql$,
        'import_blocks_' || p_number, p_line, p_line
    )
    INTO line;
    RETURN coalesce(line, '');
END
$$;

-- The rows of one batch: those of the range's next users, about so many; all rows of a user are in one batch, so that
-- they are one change. Arrays without a name of users in it have one element for each decision that can be made,
-- in the order of users; `places` are those of its user in `user_ids`. `refused`: the rows that were good when they were
-- checked, and cannot be applied any more; `of_deleted` is the first line among them whose segment was deleted.
-- `last_user` is null where no rows are left.
CREATE OR REPLACE FUNCTION next_import_rows(
    p_range import_ranges, p_rows integer, p_at timestamptz,
    OUT last_user bigint, OUT users bigint, OUT refused bigint, OUT of_deleted bigint,
    OUT user_ids bigint[], OUT places integer[], OUT slugs text[], OUT adds boolean[], OUT untils timestamptz[],
    OUT ttl_seconds bigint[]
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    decisions text := quote_ident('import_decisions_' || p_range.import_number);
BEGIN
    EXECUTE format(
        'SELECT user_id FROM %s WHERE NOT is_bad AND user_id > $1 AND user_id <= $3 ORDER BY user_id OFFSET $2 LIMIT 1',
        decisions
    )
    INTO last_user USING p_range.applied_to, p_rows - 1, p_range.last_user;
    EXECUTE format(
        $sql$
        SELECT max(d.user_id), count(DISTINCT d.user_id), sum(d.rows) FILTER (WHERE NOT d.is_good),
               min(d.line) FILTER (WHERE d.is_deleted),
               array_agg(d.user_id) FILTER (WHERE d.is_good AND d.is_first), array_agg(d.place) FILTER (WHERE d.is_good),
               array_agg(d.slug) FILTER (WHERE d.is_good), array_agg(d.adds) FILTER (WHERE d.is_good),
               array_agg(d.until) FILTER (WHERE d.is_good), array_agg(d.ttl_seconds) FILTER (WHERE d.is_good)
        FROM (
            SELECT r.*, (dense_rank() OVER of_good)::integer AS place,
                   lag(r.user_id) OVER of_good IS DISTINCT FROM r.user_id AS is_first
            FROM (
                SELECT d.*, s.slug, s.deleted_at IS NOT NULL AS is_deleted,
                       s.deleted_at IS NULL AND (d.until > $3) IS NOT FALSE AS is_good
                FROM %s d
                JOIN segments s ON s.id = d.segment_id
                WHERE NOT d.is_bad AND d.user_id > $1 AND d.user_id <= $2
            ) r
            WINDOW of_good AS (PARTITION BY r.is_good ORDER BY r.user_id)
        ) d
        $sql$,
        decisions
    )
    INTO last_user, users, refused, of_deleted, user_ids, places, slugs, adds, untils, ttl_seconds
    USING p_range.applied_to, coalesce(last_user, p_range.last_user), p_at;
END
$$;

-- Notes the rows of a batch that were good when they were checked.
CREATE OR REPLACE FUNCTION note_import_refusals(p_range import_ranges, p_last_user bigint, p_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        $sql$
        INSERT INTO import_errors (import_number, line, detail, text)
        SELECT $1, d.line,
               CASE WHEN s.deleted_at IS NOT NULL THEN 'the segment was deleted before the row was applied'
                    ELSE 'the term ended before the row was applied' END,
               import_line($1, d.line)
        FROM %I d
        JOIN segments s ON s.id = d.segment_id
        WHERE NOT d.is_bad AND d.user_id > $2 AND d.user_id <= $3 AND d.rows > 0
          AND (s.deleted_at IS NOT NULL OR d.until <= $4)
        ON CONFLICT DO NOTHING
        $sql$,
        'import_decisions_' || p_range.import_number
    )
    USING p_range.import_number, p_range.applied_to, p_last_user, p_at;
END
$$;

-- What these decisions would do now; changes nothing. What is due counts as done, as a change would settle it.
CREATE OR REPLACE FUNCTION foresee_changes(
    p_user_ids bigint[], p_places integer[], p_slugs text[], p_adds boolean[], p_untils timestamptz[],
    p_ttl_seconds bigint[]
) RETURNS text[]
    LANGUAGE sql STABLE
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
    SELECT array_agg(
        change_outcome(
            w.adds, coalesce(w.until, p.at + w.ttl_seconds * interval '1 second'),
            coalesce(m.included, bucket(p_user_ids[w.place], s.salt) < r.threshold, false), m.included IS NOT NULL,
            m.until, r.threshold
        )
        ORDER BY w.number
    )
    FROM present p
    CROSS JOIN unnest(p_places, p_slugs, p_adds, p_untils, p_ttl_seconds)
         WITH ORDINALITY AS w (place, slug, adds, until, ttl_seconds, number)
    -- OFFSET 0: as in change_memberships.
    LEFT JOIN LATERAL (
        SELECT s.id, s.salt FROM segments s WHERE s.slug = w.slug AND s.deleted_at IS NULL OFFSET 0
    ) s ON true
    LEFT JOIN LATERAL (
        SELECT r.threshold FROM rollouts r WHERE r.segment_id = s.id AND r.ended_at IS NULL OFFSET 0
    ) r ON true
    LEFT JOIN LATERAL (
        SELECT m.included, m.until
        FROM memberships m
        WHERE m.user_id = p_user_ids[w.place] AND m.segment_id = s.id AND m.ended_at IS NULL
          AND (m.until IS NULL OR m.until > p.at)
        OFFSET 0
    ) m ON true
$$;

-- A dry run's first differences, and more of them.
CREATE OR REPLACE FUNCTION more_differences(
    p_sample jsonb, p_user_ids bigint[], p_places integer[], p_slugs text[], p_outcomes text[]
) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS $$
    SELECT p_sample || coalesce(jsonb_agg(
        jsonb_build_object('user_id', d.user_id, 'segment', d.slug, 'outcome', d.outcome)
        ORDER BY d.user_id, d.slug COLLATE "C"
    ), '[]')
    FROM (
        SELECT p_user_ids[o.place] AS user_id, o.slug, o.outcome
        FROM unnest(p_places, p_slugs, p_outcomes) AS o (place, slug, outcome)
        WHERE o.outcome <> 'unchanged'
        ORDER BY o.place, o.slug COLLATE "C"
        LIMIT greatest(0, 100 - jsonb_array_length(p_sample))
    ) d
$$;

-- Applies about so many rows of a range of an import, together with its progress: both or neither. `is_over`: nobody is
-- left in the range, or the import cannot go on, for the reason in `refusal`; then end_import_if_over is to be called.
CREATE OR REPLACE FUNCTION apply_import_batch(
    p_number bigint, p_place integer, p_rows integer, OUT status text, OUT is_over boolean, OUT refusal text,
    OUT users bigint, OUT added bigint, OUT removed bigint, OUT updated bigint, OUT unchanged bigint
)
    LANGUAGE plpgsql AS $$
DECLARE
    i imports;
    range import_ranges;
    at timestamptz;
    batch record;
    outcomes text[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    -- Until the batch is done, a caller who cancels the import waits.
    PERFORM pg_advisory_xact_lock_shared(import_end_lock(p_number));
    SELECT * INTO i FROM imports WHERE number = p_number;
    status := i.status;
    SELECT i.status IS DISTINCT FROM 'applying', 0, 0, 0, 0, 0 INTO is_over, users, added, removed, updated, unchanged;
    IF is_over THEN
        RETURN;
    END IF;
    -- A worker that was taken for dead may still be at it.
    SELECT * INTO range FROM import_ranges r WHERE r.import_number = p_number AND r.place = p_place FOR UPDATE;
    at := greatest(clock_instant(), (SELECT c.last_at FROM catalog c));
    batch := next_import_rows(range, p_rows, at);
    refusal := import_refusal(i);
    IF refusal IS NULL AND NOT i.skip_invalid AND batch.of_deleted IS NOT NULL THEN
        refusal := format('Line %s: the segment was deleted before the row was applied.', batch.of_deleted);
    END IF;
    IF refusal IS NOT NULL OR batch.last_user IS NULL THEN
        is_over := true;
        UPDATE import_ranges r
        SET is_over = batch.last_user IS NULL
        WHERE r.import_number = p_number AND r.place = p_place;
        RETURN;
    END IF;
    IF i.dry_run THEN
        outcomes := foresee_changes(
            batch.user_ids, batch.places, batch.slugs, batch.adds, batch.untils, batch.ttl_seconds
        );
    ELSIF batch.user_ids IS NOT NULL THEN
        SELECT c.outcomes
        INTO outcomes
        FROM change_memberships(
            batch.user_ids, ARRAY [i.ordered_by], ARRAY [i.reason], ARRAY [i.on_behalf_of],
            batch.places, batch.slugs, batch.adds, batch.untils, batch.ttl_seconds, true, false
        ) c;
    END IF;
    SELECT batch.users, count(*) FILTER (WHERE o.outcome = 'added'), count(*) FILTER (WHERE o.outcome = 'removed'),
           count(*) FILTER (WHERE o.outcome = 'updated'), count(*) FILTER (WHERE o.outcome = 'unchanged')
    INTO users, added, removed, updated, unchanged
    FROM unnest(outcomes) AS o (outcome);
    UPDATE import_ranges r
    SET applied_to = batch.last_user, users = r.users + apply_import_batch.users,
        added = r.added + apply_import_batch.added, removed = r.removed + apply_import_batch.removed,
        updated = r.updated + apply_import_batch.updated, unchanged = r.unchanged + apply_import_batch.unchanged
    WHERE r.import_number = p_number AND r.place = p_place;
    IF batch.refused > 0 THEN
        PERFORM note_import_refusals(range, batch.last_user, at);
    END IF;
    -- The row of the import comes last, because another range may wait for it.
    IF batch.refused > 0 OR i.dry_run THEN
        UPDATE imports m
        SET invalid_rows = m.invalid_rows + coalesce(batch.refused, 0)::bigint,
            sample = CASE WHEN m.dry_run THEN more_differences(
                m.sample, batch.user_ids, batch.places, batch.slugs, outcomes
            ) ELSE m.sample END
        WHERE m.number = p_number;
    END IF;
END
$$;

-- Ends an import that cannot go on, or whose ranges are all over; returns its status.
CREATE OR REPLACE FUNCTION end_import_if_over(p_number bigint, p_refusal text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    i imports;
    refusal text;
BEGIN
    PERFORM pg_advisory_xact_lock(import_end_lock(p_number));
    SELECT * INTO i FROM imports WHERE number = p_number;
    refusal := coalesce(p_refusal, import_refusal(i));
    IF i.status <> 'applying' OR (refusal IS NULL AND EXISTS (
        SELECT FROM import_ranges r WHERE r.import_number = p_number AND NOT r.is_over
    )) THEN
        RETURN i.status;
    END IF;
    PERFORM end_import(
        p_number, CASE WHEN refusal IS NULL THEN 'done' ELSE 'failed' END,
        refusal || format(' %s of %s users were changed before that.', (import_progress(p_number)).users, i.users)
    );
    RETURN (SELECT m.status FROM imports m WHERE m.number = p_number);
END
$$;

-- Stops an import for a caller. False: it had ended before. While it is checked, its tables are in use: the job drops
-- them.
CREATE OR REPLACE FUNCTION cancel_import(p_number bigint, p_actor text, p_on_behalf_of text) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    old imports;
BEGIN
    PERFORM pg_advisory_xact_lock(import_end_lock(p_number));
    SELECT * INTO old FROM imports WHERE number = p_number FOR UPDATE;
    IF NOT end_import(p_number, 'canceled', NULL, p_actor, p_on_behalf_of) THEN
        RETURN false;
    END IF;
    IF old.status <> 'checking' THEN
        PERFORM drop_import_tables(p_number);
    END IF;
    RETURN true;
END
$$;

-- Ends the imports whose receiving process has been silent for so long, and returns how many there were.
CREATE OR REPLACE FUNCTION fail_silent_imports(p_silent interval) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    lost bigint;
    ended bigint := 0;
BEGIN
    FOR lost IN
        SELECT i.number FROM imports i WHERE i.status = 'receiving' AND i.heard_at < clock_instant() - p_silent
    LOOP
        -- As the end of an import does: this lock first, and then its row.
        PERFORM pg_advisory_xact_lock(import_end_lock(lost));
        PERFORM
        FROM imports i
        WHERE i.number = lost AND i.status = 'receiving' AND i.heard_at < clock_instant() - p_silent
        FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            PERFORM end_import(lost, 'failed', 'The process that received the body has ended; send the body again.');
            PERFORM drop_import_tables(lost);
            ended := ended + 1;
        END IF;
    END LOOP;
    RETURN ended;
END
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/14_exports.sql

-- Everybody in a segment at one instant, by user id, for exports.

-- Nothing here sorts, hashes or looks users up one by one: each part is read in the order of an index, and the parts are
-- merged. The statement holds the planner to it (storage/exports.py), and tests/storage/test_export_plans.py checks it.
-- `p_now`: p_at is the present. Then every override that is open counts, whatever the clock was when it was written.

-- The segment that a slug means at p_at, and its percentages up to then. No row: none. `times`: when the threshold
-- changed; `thresholds`: to what; `lowest`: the lowest from then until p_at, so a bucket below it has been covered since.
CREATE OR REPLACE FUNCTION segment_to_export(p_slug text, p_at timestamptz)
    RETURNS TABLE (id bigint, salt bigint, times timestamptz[], thresholds bigint[], lowest bigint[])
    LANGUAGE sql STABLE AS $$
    SELECT s.id, s.salt, e.times, e.thresholds, e.lowest
    FROM segment_at(p_slug, p_at) s
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(r.at ORDER BY r.at), '{}') AS times,
               coalesce(array_agg(r.threshold ORDER BY r.at), '{}') AS thresholds,
               coalesce(array_agg(r.lowest ORDER BY r.at), '{}') AS lowest
        FROM (
            SELECT c.at, c.threshold, min(c.threshold) OVER (ORDER BY c.at DESC) AS lowest
            FROM (
                SELECT e.at, CASE e.operation WHEN 'add' THEN e.end_bucket ELSE e.first_bucket END AS threshold
                FROM rollout_edges e
                WHERE e.segment_id = s.id AND e.at <= p_at
            ) c
        ) r
    ) e
$$;

-- The latest override of each user up to p_at. `holds`: it decides at p_at. Closed ones that do not hold are left out.
-- The ORDER BY lets the planner merge the two indexes.
CREATE OR REPLACE FUNCTION latest_overrides(p_segment_id bigint, p_at timestamptz, p_now boolean)
    RETURNS TABLE (user_id bigint, included boolean, since timestamptz, until timestamptz, holds boolean)
    LANGUAGE sql STABLE AS $$
    (
        SELECT m.user_id, m.included, m.since, m.until, coalesce(m.until > p_at, true)
        FROM memberships m
        WHERE m.segment_id = p_segment_id AND m.ended_at IS NULL AND (p_now OR m.since <= p_at)
        ORDER BY m.user_id
    )
    UNION ALL
    (
        SELECT m.user_id, m.included, m.since, m.until, true
        FROM memberships m
        WHERE NOT p_now AND m.segment_id = p_segment_id AND m.ended_at > p_at AND m.since <= p_at
        ORDER BY m.user_id
    )
$$;

-- For each user with closed overrides, the last span of time in which such overrides had the user in without a gap; nulls
-- where all were exclusions. What is left of removed overrides is like one that ended where the next one began.
CREATE OR REPLACE FUNCTION closed_overrides(p_segment_id bigint, p_at timestamptz, p_now boolean)
    RETURNS TABLE (user_id bigint, since timestamptz, ended_at timestamptz)
    LANGUAGE sql STABLE AS $$
    SELECT c.user_id, max(c.since) FILTER (WHERE c.included AND c.before IS DISTINCT FROM c.since),
           max(c.ended_at) FILTER (WHERE c.included)
    FROM (
        SELECT o.user_id, o.included, o.since, o.ended_at,
               lag(CASE WHEN o.included THEN o.ended_at END) OVER (PARTITION BY o.user_id ORDER BY o.ended_at) AS before
        FROM (
            (
                SELECT m.user_id, m.included, m.since, m.ended_at
                FROM memberships m
                WHERE m.segment_id = p_segment_id AND m.ended_at IS NOT NULL AND (p_now OR m.since <= p_at)
                ORDER BY m.user_id, m.ended_at
            )
            UNION ALL
            (
                SELECT e.user_id, e.included, e.at, e.joins_at
                FROM earlier_changes e
                WHERE e.segment_id = p_segment_id
                ORDER BY e.user_id, e.joins_at
            )
        ) o
    ) c
    GROUP BY c.user_id
$$;

-- The threshold just before an instant.
CREATE OR REPLACE FUNCTION threshold_before(p_at timestamptz, p_times timestamptz[], p_thresholds bigint[])
    RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(p_thresholds[width_bucket(p_at - interval '1 microsecond', p_times)], 0);

-- Since when the percentages, which cover the bucket just before an instant, have done so without a gap.
CREATE OR REPLACE FUNCTION covered_since(
    p_bucket bigint, p_at timestamptz, p_times timestamptz[], p_thresholds bigint[]
)
    RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (
        SELECT max(p_times[i])
        FROM generate_subscripts(p_times, 1) i
        WHERE p_times[i] < p_at AND p_bucket < p_thresholds[i] AND p_bucket >= coalesce(p_thresholds[i - 1], 0)
    );

-- Since when a user has been in a segment, by the one history. It has settings of its own: the statement that calls it is
-- held to merge joins, which are the wrong ones for one user.
CREATE OR REPLACE FUNCTION member_since(p_user_id bigint, p_segment_id bigint, p_at timestamptz, p_now boolean)
    RETURNS timestamptz
    LANGUAGE sql STABLE SET enable_nestloop = on SET enable_sort = on AS $$
    SELECT c.at
    FROM users u
    CROSS JOIN LATERAL latest_change(
        p_user_id, p_segment_id, CASE WHEN p_now THEN greatest(p_at, u.last_at) ELSE p_at END
    ) c
    WHERE u.id = p_user_id
$$;

-- The members whose overrides hold. They got in when that override began, or the first of several without a gap between
-- them. If the percentage covered them just before that, they got in with the percentage or at the start of their life;
-- and if they had other overrides before, the history says when.
CREATE OR REPLACE FUNCTION members_by_override(
    p_segment_id bigint, p_salt bigint, p_times timestamptz[], p_thresholds bigint[], p_at timestamptz, p_now boolean
)
    RETURNS TABLE (user_id bigint, source text, since timestamptz, until timestamptz)
    LANGUAGE sql STABLE AS $$
    SELECT m.user_id, 'explicit',
           CASE
               WHEN bucket(m.user_id, p_salt) >= threshold_before(m.since, p_times, p_thresholds) THEN m.since
               WHEN m.has_closed THEN member_since(m.user_id, p_segment_id, p_at, p_now)
               ELSE greatest(
                   (
                       SELECT max(l.registered_at)
                       FROM registrations l
                       WHERE l.user_id = m.user_id AND l.registered_at < m.since
                   ),
                   covered_since(bucket(m.user_id, p_salt), m.since, p_times, p_thresholds)
               )
           END,
           m.until
    FROM (
        SELECT o.user_id, CASE WHEN o.since <= c.ended_at THEN c.since ELSE o.since END AS since, o.until,
               c.user_id IS NOT NULL AS has_closed
        FROM latest_overrides(p_segment_id, p_at, p_now) o
        LEFT JOIN closed_overrides(p_segment_id, p_at, p_now) c ON c.user_id = o.user_id
        WHERE o.included AND o.holds
    ) m
$$;

-- The members by override and by percentage. Who never had an override got in with the percentage, or at the start of
-- their life if that was later.
CREATE OR REPLACE FUNCTION members_by_bucket(
    p_segment_id bigint, p_salt bigint, p_times timestamptz[], p_thresholds bigint[], p_lowest bigint[],
    p_at timestamptz, p_now boolean
)
    RETURNS TABLE (user_id bigint, source text, since timestamptz, until timestamptz)
    LANGUAGE sql STABLE AS $$
    SELECT m.user_id, CASE WHEN m.holds THEN 'explicit' ELSE 'rollout' END,
           CASE
               WHEN NOT m.has_override AND NOT m.has_closed THEN greatest(
                   m.registered_at, p_times[1 + width_bucket(bucket(m.user_id, p_salt), p_lowest)]
               )
               WHEN m.holds AND bucket(m.user_id, p_salt) >= threshold_before(m.since, p_times, p_thresholds)
                   THEN m.since
               WHEN m.holds AND NOT m.has_closed THEN greatest(
                   m.registered_at, covered_since(bucket(m.user_id, p_salt), m.since, p_times, p_thresholds)
               )
               ELSE member_since(m.user_id, p_segment_id, p_at, p_now)
           END,
           CASE WHEN m.holds THEN m.until END
    FROM (
        SELECT l.user_id, l.registered_at, o.holds, o.until,
               CASE WHEN o.since <= c.ended_at THEN c.since ELSE o.since END AS since,
               o.user_id IS NOT NULL AS has_override, c.user_id IS NOT NULL AS has_closed
        FROM registrations l
        LEFT JOIN latest_overrides(p_segment_id, p_at, p_now) o ON o.user_id = l.user_id
        LEFT JOIN closed_overrides(p_segment_id, p_at, p_now) c ON c.user_id = l.user_id
        WHERE (p_now OR l.registered_at <= p_at)
          AND (l.ended_at IS NULL OR (NOT p_now AND l.ended_at > p_at))
          AND CASE
                  WHEN o.holds THEN o.included
                  ELSE bucket(l.user_id, p_salt) < p_thresholds[cardinality(p_thresholds)]
              END
    ) m
$$;

-- An instant as clients see it. Sessions are in UTC.
CREATE OR REPLACE FUNCTION rfc3339(p_at timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN to_char(p_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- A member as a JSON object; nothing in it has to be escaped. `p_quote` stands around the id.
CREATE OR REPLACE FUNCTION member_as_json(
    p_user_id bigint, p_source text, p_since timestamptz, p_until timestamptz, p_quote text
) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN '{"user_id":' || p_quote || p_user_id || p_quote || ',"source":"' || p_source || '","since":"' || rfc3339(p_since)
        || '","until":' || coalesce('"' || rfc3339(p_until) || '"', 'null') || '}';


-----------------------------------------------------------------------------------------------------------------------
-- functions/15_feed.sql

-- The feed of changes: where a window may end, and which positions are still good (docs/decisions/0065).
-- A position names a snapshot. What it has not seen are the events of the transactions from its `xmax` on and of those
-- in its `xip` (storage/snapshots.py).

-- For one who is far behind: where to end a window of about `p_most` changes. It has the transactions up to `last_xid`,
-- without those that are `postponed`. Null: there are not more changes than that, so it ends at the present snapshot;
-- also where `p_most` is null, and nobody asks.
--
-- Numbers of transactions do not tell their order: of two that changed one user, the one with the lower number may have
-- come second. So whatever is in the window without all that came before it is postponed, until nothing is left of that:
-- events of a user after an event, or an erasure, that is not in it; events after a change of a segment that is not in it;
-- and changes of segments after a postponed event. If these are too many, the window ends at the present snapshot.
CREATE OR REPLACE FUNCTION end_of_feed_window(
    p_xmax xid8, p_xip xid8[], p_most integer, OUT last_xid xid8, OUT postponed xid8[]
)
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    -- A database that was restored has rows with numbers that are still to come.
    upcoming CONSTANT xid8 := pg_snapshot_xmax(pg_current_snapshot());
    segments_from timestamptz;
    postponed_from timestamptz;
    out_of_order xid8[];
BEGIN
    postponed := '{}';
    IF p_most IS NULL THEN
        RETURN;
    END IF;
    SELECT x.xid
    INTO last_xid
    FROM (
        (SELECT e.xid FROM membership_events e
         WHERE e.xid >= p_xmax AND e.xid < upcoming ORDER BY e.xid LIMIT p_most + 1)
        UNION ALL
        (SELECT s.xid FROM segment_events s
         WHERE s.xid >= p_xmax AND s.xid < upcoming ORDER BY s.xid LIMIT p_most + 1)
        UNION ALL
        (SELECT d.xid FROM erasures d
         WHERE d.xid >= p_xmax AND d.xid < upcoming ORDER BY d.xid LIMIT p_most + 1)
    ) x
    ORDER BY x.xid
    OFFSET p_most
    LIMIT 1;
    IF last_xid IS NULL THEN
        RETURN;
    END IF;
    LOOP
        SELECT min(s.at)
        INTO segments_from
        FROM segment_events s
        WHERE s.xid = ANY (postponed) OR (s.xid > last_xid AND s.xid < upcoming);
        -- OFFSET 0: by the index on xid; for a minimum the planner would walk along the times of all events.
        SELECT min(e.at)
        INTO postponed_from
        FROM (SELECT e.at FROM membership_events e WHERE e.xid = ANY (postponed) OFFSET 0) e;
        WITH events AS MATERIALIZED (
            SELECT e.user_id, e.at, e.xid FROM membership_events e WHERE e.xid >= p_xmax AND e.xid <= last_xid
            UNION ALL
            SELECT e.user_id, e.at, e.xid FROM membership_events e WHERE e.xid = ANY (p_xip)
        )
        SELECT array_agg(DISTINCT late.xid)
        INTO out_of_order
        FROM (
            SELECT e.xid
            FROM events e
            -- The event before is enough: the one before that one is judged with it.
            LEFT JOIN LATERAL (
                SELECT b.xid
                FROM membership_events b
                WHERE b.user_id = e.user_id AND b.at < e.at
                ORDER BY b.at DESC
                LIMIT 1
            ) before ON true
            WHERE e.at > segments_from
               OR before.xid > last_xid
               OR before.xid = ANY (postponed)
               OR EXISTS (
                   SELECT
                   FROM erasures d
                   WHERE d.user_id = e.user_id AND (d.xid > last_xid OR d.xid = ANY (postponed))
               )
            UNION ALL
            SELECT s.xid
            FROM segment_events s
            WHERE ((s.xid >= p_xmax AND s.xid <= last_xid) OR s.xid = ANY (p_xip))
              AND (s.at > segments_from OR s.at > postponed_from)
        ) late
        WHERE late.xid <> ALL (postponed);
        EXIT WHEN out_of_order IS NULL;
        postponed := postponed || out_of_order;
        -- Only where rows were written around the service. The present snapshot is a right end, too.
        IF cardinality(postponed) > p_most THEN
            last_xid := NULL;
            postponed := '{}';
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- The present timeline of the write-ahead log: 1, and one more with each standby that became the primary.
CREATE OR REPLACE FUNCTION current_timeline() RETURNS bigint
    LANGUAGE sql VOLATILE
    RETURN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;

-- Notes where this timeline began: where the replay of the log ended, if this server received it as a standby. After a
-- restart that is forgotten, and after a crash the replay ends elsewhere: then NULL is noted, and nobody can tell.
CREATE OR REPLACE FUNCTION note_timeline() RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO timelines (timeline, began_at)
    SELECT current_timeline(), CASE WHEN pg_last_wal_receive_lsn() IS NOT NULL THEN pg_last_wal_replay_lsn() END
    WHERE NOT EXISTS (SELECT FROM timelines t WHERE t.timeline = current_timeline())
    ON CONFLICT DO NOTHING
$$;

-- Whether this database has all that a reader saw who was at this place of the log. After a fail-over, that is so if the
-- next timeline began at this place or later, and all timelines since are known.
CREATE OR REPLACE FUNCTION still_has(p_timeline bigint, p_place pg_lsn) RETURNS boolean
    LANGUAGE sql VOLATILE AS $$
    SELECT CASE
        WHEN p_timeline = current_timeline() THEN p_place <= pg_current_wal_insert_lsn()
        ELSE p_timeline < current_timeline()
            AND p_place <= (SELECT t.began_at FROM timelines t WHERE t.timeline = p_timeline + 1)
            AND current_timeline() - p_timeline = (
                SELECT count(*)
                FROM timelines t
                WHERE t.timeline > p_timeline AND t.timeline <= current_timeline()
            )
    END
$$;


-----------------------------------------------------------------------------------------------------------------------
-- functions/16_retention.sql

-- What is older than the history has to be is removed by whole months (docs/decisions/0101). The steps are: the beginning
-- of the history moves; an hour later, when nobody reads what was before any more, what must stay is summed up; then the
-- months are removed. Each step can be repeated after a crash.

-- Refuses questions about the time before `p_months` months ago, from the first instant of that month on. Returns that
-- instant; null: nothing is older, or terms and deletions from before it are not written down yet.
CREATE OR REPLACE FUNCTION shorten_history(p_months integer) RETURNS timestamptz
    LANGUAGE plpgsql AS $$
DECLARE
    bound CONSTANT timestamptz :=
        date_trunc('month', clock_instant() AT TIME ZONE 'UTC' - make_interval(months => p_months)) AT TIME ZONE 'UTC';
    before timestamptz;
BEGIN
    SELECT k.begins_at INTO before FROM kept_history k FOR UPDATE;
    IF bound <= before
        OR NOT EXISTS (SELECT FROM event_partitions p WHERE p.ends_at <= bound)
        -- An event that is written late would be one more of a month that is removed.
        OR EXISTS (SELECT FROM memberships m WHERE m.ended_at IS NULL AND m.until < bound)
        OR EXISTS (SELECT FROM segments s WHERE s.deleted_at < bound AND s.settled_at IS NULL)
    THEN
        RETURN NULL;
    END IF;
    UPDATE kept_history k
    SET begins_at = bound,
        moved_at = clock_timestamp(),
        last_xid = greatest(k.last_xid, (SELECT max(e.xid) FROM membership_events e WHERE e.at < bound)),
        summed_up_to = 0;
    -- A position that has not seen these has expired by `last_xid` too.
    DELETE FROM forgotten_erasures f WHERE f.xid <= (SELECT k.last_xid FROM kept_history k);
    PERFORM note_in_audit_log(
        'segmentd', NULL, 'history-shortened', NULL,
        jsonb_build_object('begins_at', rfc3339(before)), jsonb_build_object('begins_at', rfc3339(bound))
    );
    RETURN bound;
END
$$;

-- Whether all requests, reports and exports that began before the beginning of the history moved have ended.
CREATE OR REPLACE FUNCTION nobody_reads_earlier(p_patience interval) RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN coalesce((
        SELECT clock_timestamp() > k.moved_at + p_patience
            AND NOT EXISTS (
                SELECT
                FROM pg_stat_activity a
                WHERE a.datname = current_database()
                  AND a.pid <> pg_backend_pid()
                  AND a.backend_type = 'client backend'
                  AND a.xact_start <= k.moved_at + p_patience
            )
        FROM kept_history k
    ), false);

-- For the next users with events before the history begins, about `p_limit` events: writes down the latest change of each
-- segment whose closed overrides it removes, within the life in which the history begins. Returns how many users;
-- null: there are no more.
-- The users are locked against erasure only, not against changes.
CREATE OR REPLACE FUNCTION sum_up_earlier(p_limit integer) RETURNS integer
    LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    bound timestamptz;
    after_user_id bigint;
    user_ids bigint[];
BEGIN
    SELECT k.begins_at, k.summed_up_to INTO bound, after_user_id FROM kept_history k FOR UPDATE;
    user_ids := ARRAY(
        SELECT DISTINCT w.user_id
        FROM (
            SELECT e.user_id
            FROM membership_events e
            WHERE e.user_id > after_user_id AND e.at < bound
            ORDER BY e.user_id
            LIMIT p_limit
        ) w
        ORDER BY w.user_id
    );
    UPDATE kept_history SET summed_up_to = user_ids[cardinality(user_ids)];
    IF cardinality(user_ids) = 0 THEN
        RETURN NULL;
    END IF;
    PERFORM FROM users u WHERE u.id = ANY (user_ids) ORDER BY u.id FOR KEY SHARE;
    INSERT INTO earlier_changes AS e (user_id, segment_id, as_of, at, operation, cause, included, joins_at)
    SELECT p.user_id, p.segment_id, bound, c.at, c.operation::event_operation, c.cause,
           coalesce(h.included, false), coalesce(h.since, bound)
    FROM (
        SELECT m.user_id, m.segment_id
        FROM memberships m
        JOIN registrations l ON l.user_id = m.user_id AND l.registered_at <= m.since
        WHERE m.user_id = ANY (user_ids)
          AND m.ended_at < bound
          AND (l.ended_at IS NULL OR l.ended_at >= bound)
        UNION
        -- What was written down before: an event since then may be removed now, whose override still holds.
        SELECT r.user_id, r.segment_id
        FROM earlier_changes r
        JOIN registrations l ON l.user_id = r.user_id AND l.registered_at < r.as_of
        WHERE r.user_id = ANY (user_ids)
          AND (l.ended_at IS NULL OR l.ended_at >= bound)
    ) p
    LEFT JOIN LATERAL latest_change(p.user_id, p.segment_id, bound - interval '1 microsecond') c ON true
    LEFT JOIN LATERAL (
        SELECT m.included, m.since
        FROM memberships m
        WHERE m.user_id = p.user_id AND m.segment_id = p.segment_id
          AND m.since < bound AND (m.ended_at IS NULL OR m.ended_at >= bound)
    ) h ON true
    ON CONFLICT (user_id, segment_id) DO UPDATE
    SET as_of = excluded.as_of, at = excluded.at, operation = excluded.operation, cause = excluded.cause,
        included = excluded.included, joins_at = excluded.joins_at;
    DELETE FROM memberships m WHERE m.user_id = ANY (user_ids) AND m.ended_at < bound;
    RETURN cardinality(user_ids);
END
$$;

-- Removes up to `p_limit` lives that ended before the history begins. Returns how many.
CREATE OR REPLACE FUNCTION remove_earlier_lives(p_limit integer) RETURNS integer
    LANGUAGE sql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    WITH over AS (
        DELETE FROM registrations l
        USING (
            SELECT o.user_id, o.registered_at
            FROM registrations o
            WHERE o.ended_at < (SELECT k.begins_at FROM kept_history k)
            ORDER BY o.ended_at
            LIMIT p_limit
        ) o
        WHERE l.user_id = o.user_id AND l.registered_at = o.registered_at
        RETURNING l.user_id, l.ended_at
    )
    , forgotten AS (
        DELETE FROM earlier_changes e USING over l WHERE e.user_id = l.user_id AND e.as_of <= l.ended_at
    )
    SELECT count(*)::integer FROM over
$$;

-- The next partition to remove, and how far that is: attached, pending (the detaching was interrupted) or detached. No
-- row: there is none. A partition that an operator detached is not ours.
CREATE OR REPLACE FUNCTION partition_to_drop() RETURNS TABLE (name text, state text)
    LANGUAGE plpgsql AS $$
DECLARE
    bound timestamptz;
    chosen text;
BEGIN
    SELECT k.begins_at, k.dropping INTO bound, chosen FROM kept_history k FOR UPDATE;
    IF to_regclass(chosen) IS NULL THEN
        SELECT p.name INTO chosen FROM event_partitions p WHERE p.ends_at <= bound ORDER BY p.ends_at LIMIT 1;
        UPDATE kept_history SET dropping = chosen;
    END IF;
    RETURN QUERY
        SELECT chosen, CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'pending' ELSE 'attached' END
        FROM (SELECT to_regclass(chosen)::oid AS oid) c
        LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
        WHERE c.oid IS NOT NULL;
END
$$;

-- Since when PostgreSQL's counters of this database count; a crash begins them again.
CREATE OR REPLACE FUNCTION counters_began_at() RETURNS timestamptz
    LANGUAGE sql STABLE
    RETURN (SELECT pg_stat_get_db_stat_reset_time(d.oid) FROM pg_database d WHERE d.datname = current_database());

-- How many events of removed partitions these counters counted.
CREATE OR REPLACE FUNCTION removed_events() RETURNS bigint
    LANGUAGE sql STABLE
    RETURN (
        SELECT k.removed_events FROM kept_history k WHERE k.counted_since IS NOT DISTINCT FROM counters_began_at()
    );

-- Removes the partition that was detached, and counts its events for the figure of all that were written.
CREATE OR REPLACE FUNCTION drop_detached_partition(p_name text) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE kept_history k
    SET dropping = NULL,
        removed_events = coalesce(removed_events(), 0) + pg_stat_get_tuples_inserted(p_name::regclass),
        counted_since = counters_began_at()
    WHERE k.dropping = p_name;
    IF FOUND THEN
        EXECUTE format('DROP TABLE %I', p_name);
    END IF;
END
$$;


-----------------------------------------------------------------------------------------------------------------------
-- What `segmentd migrate` notes

INSERT INTO schema_migrations (number, name) VALUES
    (1, '0001_tables.sql');
INSERT INTO schema_functions (digest, version) VALUES
    ('7ccf4d5fcea6dbfb0bf82367e586a67e12536fd0105917e8cffc3f72e9ab496a', '0.1.0');
