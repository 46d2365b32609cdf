-- Registration, deletion and erasure of users, each one call in one transaction.

-- An id that no user has (docs/decisions/0045). Each taken id is passed over only once, in pieces of an index. The
-- sequence moves only over taken ids and ids that it gave out, so a client that chooses ids cannot drive it far ahead.
-- A rollback does not move it back. The caller has to expect that another transaction takes the id at the same moment.
CREATE OR REPLACE FUNCTION next_free_user_id() RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    piece CONSTANT bigint := 10000;
    found_id bigint;
    passed_over bigint;
BEGIN
    LOOP
        found_id := nextval('assigned_user_ids');
        IF NOT EXISTS (SELECT FROM users u WHERE u.id = found_id) THEN
            RETURN found_id;
        END IF;
        -- How many taken ids follow without a gap.
        SELECT count(*)
        INTO passed_over
        FROM (
            SELECT u.id, row_number() OVER (ORDER BY u.id) AS place
            FROM users u
            WHERE u.id > found_id AND u.id <= found_id + piece
        ) taken
        WHERE taken.id = found_id + taken.place;
        PERFORM setval('assigned_user_ids', greatest(s.last_value, found_id + passed_over))
        FROM assigned_user_ids s;
    END LOOP;
END
$$;

-- Registers a user; without an id, gives out one that nobody has ever had. No row: the user is registered already.
CREATE OR REPLACE FUNCTION register_user(p_user_id bigint, p_name text)
    RETURNS TABLE (id bigint, name text, registered_at timestamptz)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    new_id bigint := p_user_id;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    IF new_id IS NULL THEN
        LOOP
            new_id := next_free_user_id();
            -- A client may have registered this very id at the same moment.
            EXIT WHEN (SELECT l.begins_life[1] FROM lock_users(ARRAY [new_id]) l);
        END LOOP;
    ELSIF EXISTS (SELECT FROM users u WHERE u.id = new_id AND u.deleted_at IS NULL) THEN
        RETURN;
    -- Of two that register one id at once, the second finds a life that has begun.
    ELSIF NOT (SELECT l.begins_life[1] FROM lock_users(ARRAY [new_id]) l) THEN
        RETURN;
    END IF;
    RETURN QUERY
        UPDATE users u SET name = p_name WHERE u.id = new_id RETURNING u.id, u.name, u.registered_at;
END
$$;

-- Ends a user's life, memberships and exclusions, and keeps the history. Returns the user's state for replicas
-- (user_states); null: there is no such user.
CREATE OR REPLACE FUNCTION delete_user(p_user_id bigint, p_actor text, p_on_behalf_of text DEFAULT NULL) RETURNS bytea
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    PERFORM FROM users u WHERE u.id = p_user_id AND u.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT (settle_before_changes(ARRAY [p_user_id], l.ats))[1] INTO now_at FROM lock_users(ARRAY [p_user_id]) l;

    WITH closed AS (
        UPDATE memberships m SET ended_at = now_at
        WHERE m.user_id = p_user_id AND m.ended_at IS NULL
        RETURNING m.segment_id, m.included, m.until
    )
    INSERT INTO membership_events (user_id, segment_id, at, operation, effective, until, cause, actor, on_behalf_of)
    SELECT p_user_id, c.segment_id, now_at, 'remove', c.included, c.until, 'user-deleted', p_actor, p_on_behalf_of
    FROM closed c;

    UPDATE registrations SET ended_at = now_at WHERE user_id = p_user_id AND ended_at IS NULL;
    UPDATE users SET deleted_at = now_at, last_at = now_at, name = NULL WHERE id = p_user_id;
    RETURN (SELECT u.state FROM user_states(ARRAY [p_user_id]) u);
END
$$;

-- Removes everything that is known of a user, the history included, and ends the links of all reports that may name
-- them (docs/decisions/0018). Returns the user's state for replicas (erased_states); null: nothing was known.
CREATE OR REPLACE FUNCTION erase_user(
    p_user_id bigint, p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
) RETURNS bytea
    LANGUAGE plpgsql AS $$
DECLARE
    old_version bigint;
    decided_ids bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    SELECT u.version INTO old_version FROM users u WHERE u.id = p_user_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- Of some decisions the event was removed already, of some the override.
    decided_ids := ARRAY(
        SELECT e.segment_id FROM membership_events e WHERE e.user_id = p_user_id
        UNION
        SELECT m.segment_id FROM memberships m WHERE m.user_id = p_user_id
        UNION
        SELECT r.segment_id FROM earlier_changes r WHERE r.user_id = p_user_id
        ORDER BY 1
    );
    DELETE FROM membership_events WHERE user_id = p_user_id;
    DELETE FROM earlier_changes WHERE user_id = p_user_id;
    DELETE FROM memberships WHERE user_id = p_user_id;
    DELETE FROM registrations WHERE user_id = p_user_id;
    DELETE FROM users WHERE id = p_user_id;
    INSERT INTO erasures (user_id, version, at, segment_ids, actor, on_behalf_of)
    VALUES (p_user_id, old_version + 1, clock_instant(), decided_ids, p_actor, p_on_behalf_of);
    UPDATE reports r
    SET expires_at = greatest(clock_instant(), r.created_at + interval '1 microsecond'), user_id = NULL
    WHERE (r.user_id IS NULL OR r.user_id = p_user_id) AND r.expires_at > clock_instant();
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'user-erased', NULL, NULL, NULL);
    RETURN (SELECT e.state FROM erased_states(ARRAY [p_user_id]) e);
END
$$;
