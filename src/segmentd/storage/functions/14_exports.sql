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
