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
