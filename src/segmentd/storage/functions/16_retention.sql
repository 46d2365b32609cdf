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
