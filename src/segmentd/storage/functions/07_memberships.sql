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
