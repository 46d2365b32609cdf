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
