-- Segments, users, memberships and their history.
-- What the words mean: docs/data-model.md.

-- Every time that is written comes from here, after the last lock of its transaction.
CREATE FUNCTION clock_instant() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN clock_timestamp();

-- The instant that a reading statement speaks for. Stable, so that an index can be asked with it.
CREATE FUNCTION reading_instant() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN statement_timestamp();

-- Where a user falls in a rollout: 0 to 2^32 - 1. The same function stands in domain/bucketing.py.
CREATE FUNCTION bucket(user_id bigint, salt bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN hashint8extended(user_id, salt) & 4294967295;


CREATE TABLE users (
    id            bigint      PRIMARY KEY CHECK (id >= 1),
    name          text        CHECK (length(name) <= 256),
    registered_at timestamptz NOT NULL,
    deleted_at    timestamptz,
    -- Raised by every write to the user; goes on through deletions, so that a copy can tell old from new. It starts
    -- at the milliseconds since 1970: who comes back after an erasure is newer than what was erased.
    version       bigint      NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    -- The time of the latest event: the next one is later, whatever the clock does.
    last_at       timestamptz NOT NULL
) WITH (fillfactor = 85);

CREATE INDEX users_living ON users (id) WHERE deleted_at IS NULL;

-- Ids that the service gives out; ids that clients bring along are skipped (register_user).
CREATE SEQUENCE assigned_user_ids AS bigint;

-- A user's lives: from a registration to the deletion, one after the other.
CREATE TABLE registrations (
    user_id       bigint      NOT NULL REFERENCES users (id),
    registered_at timestamptz NOT NULL,
    ended_at      timestamptz CHECK (ended_at > registered_at),
    PRIMARY KEY (user_id, registered_at)
);

CREATE UNIQUE INDEX registrations_open ON registrations (user_id) WHERE ended_at IS NULL;
CREATE INDEX registrations_by_start ON registrations (registered_at);
CREATE INDEX registrations_by_end ON registrations (ended_at) WHERE ended_at IS NOT NULL;


CREATE TABLE segments (
    -- 30 bits: the others of a word of 32 say more about an override in the nodes' copies (override_word).
    id          bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY CHECK (id < 1073741824),
    slug        text        NOT NULL COLLATE "C" CHECK (slug ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$'),
    description text        NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    salt        bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    deleted_at  timestamptz CHECK (deleted_at > created_at)
);

CREATE UNIQUE INDEX segments_living ON segments (lower(slug)) WHERE deleted_at IS NULL;
CREATE INDEX segments_by_slug ON segments (slug);
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

-- One row: raised by every change of a segment or a rollout.
CREATE TABLE catalog (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint      NOT NULL,
    last_at  timestamptz NOT NULL
);

INSERT INTO catalog (version, last_at) VALUES (0, '-infinity');


-- The overrides with their past: a stored decision about one user and one segment. A new decision closes the
-- open row and opens another, so that every instant of the past can be asked.
-- There is no foreign key to segments: its check would lock a popular segment's row in every write.
-- Segments are never deleted, and ids come only from segments that were read in the same transaction.
CREATE TABLE memberships (
    user_id    bigint      NOT NULL REFERENCES users (id),
    segment_id bigint      NOT NULL,
    included   boolean     NOT NULL,
    since      timestamptz NOT NULL,
    until      timestamptz CHECK (until > since),
    ended_at   timestamptz CHECK (ended_at > since),
    PRIMARY KEY (user_id, segment_id, since),
    CONSTRAINT exclusions_have_no_term CHECK (included OR until IS NULL),
    CONSTRAINT a_term_ends_in_time CHECK (ended_at <= until)
);

CREATE UNIQUE INDEX memberships_open ON memberships (user_id, segment_id) WHERE ended_at IS NULL;
CREATE INDEX memberships_of_segment ON memberships (segment_id, user_id) WHERE ended_at IS NULL;
CREATE INDEX memberships_due ON memberships (until, user_id) WHERE ended_at IS NULL AND until IS NOT NULL;

-- Append-only. `effective` says whether the answer to "is the user in?" changed with this event.
CREATE TABLE membership_events (
    user_id    bigint      NOT NULL,
    segment_id bigint      NOT NULL,
    at         timestamptz NOT NULL,
    operation  text        NOT NULL CHECK (operation IN ('add', 'remove')),
    effective  boolean     NOT NULL,
    until      timestamptz,
    cause      text        NOT NULL CHECK (cause IN ('request', 'expiry', 'segment-deleted', 'user-deleted')),
    actor      text        NOT NULL,
    reason     text        CHECK (length(reason) <= 500),
    -- The writing transaction, by which a follower finds what its last snapshot could not see.
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id()
) PARTITION BY RANGE (at);

CREATE INDEX membership_events_by_user ON membership_events (user_id, at);
CREATE INDEX membership_events_by_xid ON membership_events (xid);
