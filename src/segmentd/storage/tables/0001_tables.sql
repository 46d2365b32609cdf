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
