-- The feed of changes: where a window may end, and which positions are still good (docs/decisions/0065).
-- A position names a snapshot. What it has not seen are the events of the transactions from its `xmax` on and of those
-- in its `xip` (storage/snapshots.py).

-- For one who is far behind: where to end a window of about `p_most` changes. It has the transactions up to `last_xid`,
-- without those that are `postponed`. Null: there are not more changes than that, so it ends at the present snapshot;
-- also where `p_most` is null, and nobody asks.
--
-- Numbers of transactions do not tell their order: of two that changed one user, the one with the lower number may have
-- come second. So whatever is in the window without all that came before it is postponed, until nothing is left of that:
-- events of a user after an event, or an erasure, that is not in it; events after a change of a segment that is not in it;
-- and changes of segments after a postponed event. If these are too many, the window ends at the present snapshot.
CREATE OR REPLACE FUNCTION end_of_feed_window(
    p_xmax xid8, p_xip xid8[], p_most integer, OUT last_xid xid8, OUT postponed xid8[]
)
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    -- A database that was restored has rows with numbers that are still to come.
    upcoming CONSTANT xid8 := pg_snapshot_xmax(pg_current_snapshot());
    segments_from timestamptz;
    postponed_from timestamptz;
    out_of_order xid8[];
BEGIN
    postponed := '{}';
    IF p_most IS NULL THEN
        RETURN;
    END IF;
    SELECT x.xid
    INTO last_xid
    FROM (
        (SELECT e.xid FROM membership_events e
         WHERE e.xid >= p_xmax AND e.xid < upcoming ORDER BY e.xid LIMIT p_most + 1)
        UNION ALL
        (SELECT s.xid FROM segment_events s
         WHERE s.xid >= p_xmax AND s.xid < upcoming ORDER BY s.xid LIMIT p_most + 1)
        UNION ALL
        (SELECT d.xid FROM erasures d
         WHERE d.xid >= p_xmax AND d.xid < upcoming ORDER BY d.xid LIMIT p_most + 1)
    ) x
    ORDER BY x.xid
    OFFSET p_most
    LIMIT 1;
    IF last_xid IS NULL THEN
        RETURN;
    END IF;
    LOOP
        SELECT min(s.at)
        INTO segments_from
        FROM segment_events s
        WHERE s.xid = ANY (postponed) OR (s.xid > last_xid AND s.xid < upcoming);
        -- OFFSET 0: by the index on xid; for a minimum the planner would walk along the times of all events.
        SELECT min(e.at)
        INTO postponed_from
        FROM (SELECT e.at FROM membership_events e WHERE e.xid = ANY (postponed) OFFSET 0) e;
        WITH events AS MATERIALIZED (
            SELECT e.user_id, e.at, e.xid FROM membership_events e WHERE e.xid >= p_xmax AND e.xid <= last_xid
            UNION ALL
            SELECT e.user_id, e.at, e.xid FROM membership_events e WHERE e.xid = ANY (p_xip)
        )
        SELECT array_agg(DISTINCT late.xid)
        INTO out_of_order
        FROM (
            SELECT e.xid
            FROM events e
            -- The event before is enough: the one before that one is judged with it.
            LEFT JOIN LATERAL (
                SELECT b.xid
                FROM membership_events b
                WHERE b.user_id = e.user_id AND b.at < e.at
                ORDER BY b.at DESC
                LIMIT 1
            ) before ON true
            WHERE e.at > segments_from
               OR before.xid > last_xid
               OR before.xid = ANY (postponed)
               OR EXISTS (
                   SELECT
                   FROM erasures d
                   WHERE d.user_id = e.user_id AND (d.xid > last_xid OR d.xid = ANY (postponed))
               )
            UNION ALL
            SELECT s.xid
            FROM segment_events s
            WHERE ((s.xid >= p_xmax AND s.xid <= last_xid) OR s.xid = ANY (p_xip))
              AND (s.at > segments_from OR s.at > postponed_from)
        ) late
        WHERE late.xid <> ALL (postponed);
        EXIT WHEN out_of_order IS NULL;
        postponed := postponed || out_of_order;
        -- Only where rows were written around the service. The present snapshot is a right end, too.
        IF cardinality(postponed) > p_most THEN
            last_xid := NULL;
            postponed := '{}';
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- The present timeline of the write-ahead log: 1, and one more with each standby that became the primary.
CREATE OR REPLACE FUNCTION current_timeline() RETURNS bigint
    LANGUAGE sql VOLATILE
    RETURN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;

-- Notes where this timeline began: where the replay of the log ended, if this server received it as a standby. After a
-- restart that is forgotten, and after a crash the replay ends elsewhere: then NULL is noted, and nobody can tell.
CREATE OR REPLACE FUNCTION note_timeline() RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO timelines (timeline, began_at)
    SELECT current_timeline(), CASE WHEN pg_last_wal_receive_lsn() IS NOT NULL THEN pg_last_wal_replay_lsn() END
    WHERE NOT EXISTS (SELECT FROM timelines t WHERE t.timeline = current_timeline())
    ON CONFLICT DO NOTHING
$$;

-- Whether this database has all that a reader saw who was at this place of the log. After a fail-over, that is so if the
-- next timeline began at this place or later, and all timelines since are known.
CREATE OR REPLACE FUNCTION still_has(p_timeline bigint, p_place pg_lsn) RETURNS boolean
    LANGUAGE sql VOLATILE AS $$
    SELECT CASE
        WHEN p_timeline = current_timeline() THEN p_place <= pg_current_wal_insert_lsn()
        ELSE p_timeline < current_timeline()
            AND p_place <= (SELECT t.began_at FROM timelines t WHERE t.timeline = p_timeline + 1)
            AND current_timeline() - p_timeline = (
                SELECT count(*)
                FROM timelines t
                WHERE t.timeline > p_timeline AND t.timeline <= current_timeline()
            )
    END
$$;
