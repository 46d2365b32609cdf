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
