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
