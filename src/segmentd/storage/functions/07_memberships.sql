-- Changes of one user's memberships, each one call in one transaction.

-- Locks the user's row, or makes it, and gives the time of the change.
-- The time is read after the row lock: ON CONFLICT evaluates its SET list under that lock.
-- `begins_life`: the user was unknown or deleted until now; their life begins a microsecond before the change.
CREATE OR REPLACE FUNCTION lock_user(p_user_id bigint, OUT at timestamptz, OUT version bigint, OUT begins_life boolean)
    LANGUAGE plpgsql AS $$
DECLARE
    old_deletion timestamptz;
    catalog_at timestamptz := (SELECT c.last_at FROM catalog c);
BEGIN
    INSERT INTO users AS u (id, registered_at, last_at)
    VALUES (p_user_id, '-infinity', greatest(clock_instant(), catalog_at + interval '2 microseconds'))
    ON CONFLICT (id) DO UPDATE
    SET version = u.version + 1,
        last_at = greatest(clock_instant(), u.last_at + interval '2 microseconds', catalog_at + interval '2 microseconds')
    RETURNING u.last_at, u.version, u.deleted_at, u.registered_at = '-infinity'
    INTO at, version, old_deletion, begins_life;

    begins_life := begins_life OR old_deletion IS NOT NULL;
    IF begins_life THEN
        -- Newer than what replicas know of an erased life with this id, even if the clock was set back.
        UPDATE users u
        SET registered_at = at - interval '1 microsecond',
            deleted_at = NULL,
            version = greatest(u.version, (SELECT max(e.version) + 1 FROM erasures e WHERE e.user_id = p_user_id))
        WHERE u.id = p_user_id
        RETURNING u.version INTO version;
        INSERT INTO registrations (user_id, registered_at) VALUES (p_user_id, at - interval '1 microsecond');
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
        CASE WHEN c.ended_at = c.until THEN 'expiry' ELSE 'segment-deleted' END,
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

-- Settles one user before a change at `p_at`, and gives the time of the change. The end of a term and the change after
-- it get two instants, so that history shows their order.
CREATE OR REPLACE FUNCTION settle_before_change(p_user_id bigint, p_at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz := p_at;
BEGIN
    WHILE settle(ARRAY [p_user_id], now_at) = now_at LOOP
        now_at := now_at + interval '1 microsecond';
        UPDATE users SET last_at = now_at WHERE id = p_user_id;
    END LOOP;
    RETURN now_at;
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

-- What decides about a user and a segment: an override that holds, or null; else the percentage, or null. The numbers
-- are those of domain/decisions.py.
CREATE OR REPLACE FUNCTION decided(p_included boolean, p_threshold bigint, p_user_id bigint, p_salt bigint)
    RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN p_included THEN 4
        WHEN NOT p_included THEN 3
        WHEN p_threshold IS NULL THEN 0
        WHEN bucket(p_user_id, p_salt) < p_threshold THEN 2
        ELSE 1
    END;

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

-- Adds and removes segments of one user, all or nothing, in one call.
-- The four arrays are parallel: slug, add or remove, and for an add its term, as an instant or in seconds.
-- Raises SG404 with the unknown slugs, SG422 with the slugs whose term is not ahead or ends after the year 9999
-- (each as a JSON array in DETAIL).
CREATE OR REPLACE FUNCTION change_memberships(
    p_user_id bigint,
    p_slugs text[],
    p_adds boolean[],
    p_untils timestamptz[],
    p_ttl_seconds bigint[],
    p_actor text,
    p_reason text,
    p_on_behalf_of text DEFAULT NULL,
    OUT version bigint,
    OUT segments text[],
    OUT added text[],
    OUT removed text[],
    OUT updated text[],
    OUT unchanged text[],
    OUT state bytea
)
    LANGUAGE plpgsql AS $$
DECLARE
    changes membership_change[];
    bad_slugs jsonb;
    now_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());

    SELECT jsonb_agg(slug ORDER BY slug COLLATE "C")
    INTO bad_slugs
    FROM unnest(p_slugs) AS wanted (slug)
    WHERE NOT EXISTS (SELECT FROM living_segment(wanted.slug));
    IF bad_slugs IS NOT NULL THEN
        RAISE EXCEPTION 'unknown segments' USING ERRCODE = 'SG404', DETAIL = bad_slugs;
    END IF;

    SELECT l.at, l.version INTO now_at, version FROM lock_user(p_user_id) l;
    PERFORM ensure_event_partition(now_at);
    now_at := settle_before_change(p_user_id, now_at);

    SELECT array_agg(ROW (
        d.segment_id, d.slug, d.adds, d.until, d.included IS NOT NULL,
        CASE
            WHEN d.adds AND NOT d.was_in THEN 'added'
            WHEN d.adds AND (d.included IS NULL OR d.until IS DISTINCT FROM d.old_until) THEN 'updated'
            WHEN NOT d.adds AND d.was_in THEN 'removed'
            -- Removing a user who is not in makes an exclusion only if there is a percentage to be excluded from.
            WHEN NOT d.adds AND d.included IS NULL AND d.has_percentage THEN 'updated'
            ELSE 'unchanged'
        END
    )::membership_change)
    INTO changes
    FROM (
        SELECT s.id AS segment_id, s.slug, w.adds, m.included, m.until AS old_until,
               coalesce(w.until, now_at + w.ttl_seconds * interval '1 second') AS until,
               s.percent IS NOT NULL AS has_percentage,
               coalesce(m.included, bucket(p_user_id, s.salt) < s.threshold, false) AS was_in
        FROM unnest(p_slugs, p_adds, p_untils, p_ttl_seconds) AS w (slug, adds, until, ttl_seconds)
        CROSS JOIN LATERAL living_segment(w.slug) s
        LEFT JOIN memberships m ON m.user_id = p_user_id AND m.segment_id = s.id AND m.ended_at IS NULL
    ) d;

    SELECT jsonb_agg(c.slug)
    INTO bad_slugs
    FROM unnest(changes) c
    WHERE c.until <= now_at OR c.until >= '10000-01-01 00:00:00+00';
    IF bad_slugs IS NOT NULL THEN
        RAISE EXCEPTION 'terms out of range' USING ERRCODE = 'SG422', DETAIL = bad_slugs;
    END IF;

    UPDATE memberships m
    SET ended_at = now_at
    FROM unnest(changes) c
    WHERE c.overridden AND c.outcome <> 'unchanged'
      AND m.user_id = p_user_id AND m.segment_id = c.segment_id AND m.ended_at IS NULL;

    INSERT INTO memberships (user_id, segment_id, included, since, until)
    SELECT p_user_id, c.segment_id, c.adds, now_at, c.until
    FROM unnest(changes) c
    WHERE c.outcome <> 'unchanged'
      AND (c.adds OR EXISTS (SELECT FROM rollouts r WHERE r.segment_id = c.segment_id AND r.ended_at IS NULL));

    INSERT INTO membership_events (
        user_id, segment_id, at, operation, effective, until, cause, actor, reason, on_behalf_of
    )
    SELECT p_user_id, c.segment_id, now_at, CASE WHEN c.adds THEN 'add' ELSE 'remove' END,
           c.outcome IN ('added', 'removed'), c.until, 'request', p_actor, p_reason, p_on_behalf_of
    FROM unnest(changes) c
    WHERE c.outcome <> 'unchanged';

    SELECT coalesce(array_agg(c.slug ORDER BY c.slug COLLATE "C") FILTER (WHERE c.outcome = 'added'), '{}'),
           coalesce(array_agg(c.slug ORDER BY c.slug COLLATE "C") FILTER (WHERE c.outcome = 'removed'), '{}'),
           coalesce(array_agg(c.slug ORDER BY c.slug COLLATE "C") FILTER (WHERE c.outcome = 'updated'), '{}'),
           coalesce(array_agg(c.slug ORDER BY c.slug COLLATE "C") FILTER (WHERE c.outcome = 'unchanged'), '{}')
    INTO added, removed, updated, unchanged
    FROM unnest(changes) c;

    SELECT coalesce(array_agg(c.slug ORDER BY c.slug COLLATE "C"), '{}')
    INTO segments
    FROM current_segments(ARRAY [p_user_id], now_at) c;
    state := (SELECT u.state FROM user_states(ARRAY [p_user_id]) u);
END
$$;
