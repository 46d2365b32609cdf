-- Access control: tokens, the audit log, on whose behalf somebody acts, and keys of links that can be replaced.

ALTER TABLE membership_events ADD COLUMN on_behalf_of text;

-- A key that was replaced goes on to verify links until then.
ALTER TABLE signing_keys ADD COLUMN good_until timestamptz;


-- API tokens; of the secret only its SHA-256 is kept. Rows are never removed: what was once closed does not open
-- again by itself.
CREATE TABLE tokens (
    id           bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name         text        NOT NULL CHECK (name ~ '^[!-~]+( [!-~]+)*$' AND length(name) <= 128),
    role         text        NOT NULL CHECK (role IN ('reader', 'editor', 'admin')),
    digest       bytea       NOT NULL UNIQUE CHECK (length(digest) = 32),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz CHECK (expires_at > created_at),
    revoked_at   timestamptz CHECK (revoked_at >= created_at),
    last_used_on date,
    -- History names these.
    CONSTRAINT a_token_is_not_named_like_nobody CHECK (name NOT IN ('anonymous', 'segmentd'))
);

CREATE UNIQUE INDEX tokens_in_force ON tokens (name) WHERE revoked_at IS NULL;

-- One row: raised by every change of the tokens.
CREATE TABLE access (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);

INSERT INTO access (version) VALUES (0);


-- Who changed segments and tokens or erased users, from what to what. Append-only, and no personal data in it.
CREATE TABLE audit_log (
    id           bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at           timestamptz NOT NULL,
    actor        text        NOT NULL,
    on_behalf_of text,
    operation    text        NOT NULL CHECK (operation IN (
        'segment-created', 'segment-changed', 'segment-deleted', 'token-created', 'token-revoked', 'user-erased',
        'signing-key-replaced'
    )),
    -- The slug or the token's name.
    subject      text,
    before       jsonb,
    after        jsonb
);

CREATE FUNCTION refuse_to_change_the_audit_log() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever appended to';
END
$$;

CREATE TRIGGER audit_log_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_the_audit_log();

CREATE FUNCTION note_in_audit_log(
    p_actor text, p_on_behalf_of text, p_operation text, p_subject text, p_before jsonb, p_after jsonb
) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO audit_log (at, actor, on_behalf_of, operation, subject, before, after)
    VALUES (clock_instant(), p_actor, p_on_behalf_of, p_operation, p_subject, p_before, p_after)
$$;

-- What the audit log shows of a segment.
CREATE FUNCTION audited(p_segment living_segments) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'slug', p_segment.slug,
        'description', p_segment.description,
        'percent', trim_scale(p_segment.percent),
        'salt', p_segment.salt::text
    )
$$;


-- Makes a token. Raises unique_violation where one in force has the name, or any the secret.
CREATE FUNCTION create_token(
    p_name text, p_role text, p_digest bytea, p_expires_at timestamptz, p_actor text
) RETURNS SETOF tokens
    LANGUAGE plpgsql AS $$
DECLARE
    token tokens;
BEGIN
    UPDATE access SET version = version + 1;
    INSERT INTO tokens (name, role, digest, created_at, expires_at)
    VALUES (p_name, p_role, p_digest, clock_instant(), p_expires_at)
    RETURNING * INTO token;
    PERFORM note_in_audit_log(
        p_actor, NULL, 'token-created', p_name, NULL, jsonb_build_object('role', p_role, 'expires_at', p_expires_at)
    );
    RETURN NEXT token;
END
$$;

-- Ends a token. No row: none in force has the name.
CREATE FUNCTION revoke_token(p_name text, p_actor text) RETURNS SETOF tokens
    LANGUAGE plpgsql AS $$
DECLARE
    token tokens;
BEGIN
    UPDATE access SET version = version + 1;
    UPDATE tokens t
    SET revoked_at = greatest(clock_instant(), t.created_at)
    WHERE t.name = p_name AND t.revoked_at IS NULL
    RETURNING * INTO token;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM note_in_audit_log(
        p_actor, NULL, 'token-revoked', p_name,
        jsonb_build_object('role', token.role, 'expires_at', token.expires_at), NULL
    );
    RETURN NEXT token;
END
$$;

-- Notes that these tokens were used today (UTC), once a day and token.
CREATE FUNCTION note_tokens_used(p_ids bigint[]) RETURNS void
    LANGUAGE sql AS $$
    UPDATE tokens
    SET last_used_on = (clock_instant() AT TIME ZONE 'UTC')::date
    WHERE id = ANY (p_ids) AND last_used_on IS DISTINCT FROM (clock_instant() AT TIME ZONE 'UTC')::date
$$;

-- Makes a new key that signs links from now on; those before it verify for as long as they are kept.
CREATE FUNCTION replace_signing_key(p_keep interval, p_actor text) RETURNS void
    LANGUAGE sql AS $$
    UPDATE signing_keys
    SET good_until = clock_instant() + p_keep
    WHERE good_until IS NULL OR good_until > clock_instant() + p_keep;
    INSERT INTO signing_keys (key) VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
    SELECT note_in_audit_log(p_actor, NULL, 'signing-key-replaced', NULL, NULL, NULL);
$$;


-- The functions below are as before, but for who acts on whose behalf, and the audit log. The new parameters have
-- defaults, so nodes of the version before this one go on to work.

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
        -- A term's end changes nothing for those whom the percentage of that instant covers.
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

DROP FUNCTION change_memberships(bigint, text[], boolean[], timestamptz[], bigint[], text, text);
CREATE FUNCTION change_memberships(
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

    SELECT jsonb_agg(slug ORDER BY slug)
    INTO bad_slugs
    FROM unnest(p_slugs) AS wanted (slug)
    WHERE NOT EXISTS (
        SELECT FROM segments s
        WHERE lower(s.slug) = lower(wanted.slug COLLATE "C") AND s.slug = wanted.slug AND s.deleted_at IS NULL
    );
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
            -- Somebody who is out is excluded for the future only where there is a percentage to be excluded from.
            WHEN NOT d.adds AND d.included IS NULL AND d.has_percentage THEN 'updated'
            ELSE 'unchanged'
        END
    )::membership_change)
    INTO changes
    FROM (
        SELECT s.id AS segment_id, s.slug, w.adds, m.included, m.until AS old_until,
               coalesce(w.until, now_at + w.ttl_seconds * interval '1 second') AS until,
               r.segment_id IS NOT NULL AS has_percentage,
               coalesce(m.included, bucket(p_user_id, s.salt) < r.threshold, false) AS was_in
        FROM unnest(p_slugs, p_adds, p_untils, p_ttl_seconds) AS w (slug, adds, until, ttl_seconds)
        JOIN segments s
          ON lower(s.slug) = lower(w.slug COLLATE "C") AND s.slug = w.slug AND s.deleted_at IS NULL
        LEFT JOIN rollouts r ON r.segment_id = s.id AND r.ended_at IS NULL
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

DROP FUNCTION delete_user(bigint, text);
CREATE FUNCTION delete_user(p_user_id bigint, p_actor text, p_on_behalf_of text DEFAULT NULL) RETURNS bytea
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    PERFORM FROM users u WHERE u.id = p_user_id AND u.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT l.at INTO now_at FROM lock_user(p_user_id) l;
    PERFORM ensure_event_partition(now_at);
    now_at := settle_before_change(p_user_id, now_at);

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

DROP FUNCTION erase_user(bigint);
CREATE FUNCTION erase_user(
    p_user_id bigint, p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
) RETURNS bytea
    LANGUAGE plpgsql AS $$
DECLARE
    old_version bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    SELECT u.version INTO old_version FROM users u WHERE u.id = p_user_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM membership_events WHERE user_id = p_user_id;
    DELETE FROM memberships WHERE user_id = p_user_id;
    DELETE FROM registrations WHERE user_id = p_user_id;
    DELETE FROM users WHERE id = p_user_id;
    INSERT INTO erasures (user_id, version, at) VALUES (p_user_id, old_version + 1, clock_instant());
    UPDATE reports r
    SET expires_at = greatest(clock_instant(), r.created_at + interval '1 microsecond'), user_id = NULL
    WHERE (r.user_id IS NULL OR r.user_id = p_user_id) AND r.expires_at > clock_instant();
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'user-erased', NULL, NULL, NULL);
    RETURN (SELECT e.state FROM erased_states(ARRAY [p_user_id]) e);
END
$$;

DROP FUNCTION create_segment(text, text, numeric, bigint);
CREATE FUNCTION create_segment(
    p_slug text, p_description text, p_percent numeric, p_salt bigint,
    p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
)
    RETURNS SETOF living_segments
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    new_id bigint;
    created living_segments;
BEGIN
    PERFORM lock_catalog();
    now_at := raise_catalog();
    INSERT INTO segments (slug, description, salt, created_at)
    VALUES (p_slug, p_description, p_salt, now_at)
    RETURNING id INTO new_id;
    IF p_percent IS NOT NULL THEN
        INSERT INTO rollouts (segment_id, percent, started_at) VALUES (new_id, p_percent, now_at);
    END IF;
    SELECT * INTO created FROM living_segments s WHERE s.id = new_id;
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'segment-created', p_slug, NULL, audited(created));
    RETURN NEXT created;
END
$$;

DROP FUNCTION update_segment(text, text, text, numeric, boolean);
CREATE FUNCTION update_segment(
    p_slug text, p_new_slug text, p_description text, p_percent numeric, p_ends_rollout boolean,
    p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
)
    RETURNS SETOF living_segments
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    segment living_segments;
    changed living_segments;
BEGIN
    PERFORM lock_catalog();
    SELECT * INTO segment FROM living_segments s WHERE lower(s.slug) = lower(p_slug COLLATE "C") AND s.slug = p_slug;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    now_at := raise_catalog();
    UPDATE segments s
    SET slug = coalesce(p_new_slug, s.slug), description = coalesce(p_description, s.description)
    WHERE s.id = segment.id;

    IF p_ends_rollout OR p_percent <> segment.percent THEN
        UPDATE rollouts SET ended_at = now_at WHERE segment_id = segment.id AND ended_at IS NULL;
    END IF;
    -- The percentage that holds already makes no version.
    IF p_percent IS DISTINCT FROM segment.percent AND p_percent IS NOT NULL THEN
        INSERT INTO rollouts (segment_id, percent, started_at) VALUES (segment.id, p_percent, now_at);
    END IF;
    SELECT * INTO changed FROM living_segments s WHERE s.id = segment.id;
    IF changed IS DISTINCT FROM segment THEN
        PERFORM note_in_audit_log(
            p_actor, p_on_behalf_of, 'segment-changed', p_slug, audited(segment), audited(changed)
        );
    END IF;
    RETURN NEXT changed;
END
$$;

DROP FUNCTION delete_segment(text);
CREATE FUNCTION delete_segment(
    p_slug text, p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    old living_segments;
BEGIN
    PERFORM lock_catalog();
    SELECT * INTO old FROM living_segments s WHERE lower(s.slug) = lower(p_slug COLLATE "C") AND s.slug = p_slug;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    now_at := raise_catalog();
    UPDATE segments s SET deleted_at = now_at WHERE s.id = old.id;
    UPDATE rollouts SET ended_at = now_at WHERE segment_id = old.id AND ended_at IS NULL;
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'segment-deleted', p_slug, audited(old), NULL);
    RETURN true;
END
$$;

DROP FUNCTION effective_changes(timestamptz);
CREATE FUNCTION effective_changes(p_as_of timestamptz)
    RETURNS TABLE (
        user_id bigint, segment_id bigint, at timestamptz, operation text, source text,
        cause text, actor text, reason text, until timestamptz, on_behalf_of text
    )
    LANGUAGE sql STABLE AS $$
    -- What is written.
    SELECT e.user_id, e.segment_id, e.at, e.operation, 'explicit', e.cause, e.actor, e.reason, e.until, e.on_behalf_of
    FROM membership_events e
    WHERE e.effective

    UNION ALL
    -- Terms that ended and are not written yet; an end changes nothing for those whom the percentage covers.
    SELECT m.user_id, m.segment_id, m.until, 'remove', 'explicit', 'expiry', 'segmentd', NULL, m.until, NULL
    FROM memberships m
    JOIN segments s ON s.id = m.segment_id AND (s.deleted_at IS NULL OR s.deleted_at >= m.until)
    LEFT JOIN rollouts r
           ON r.segment_id = m.segment_id AND r.started_at <= m.until AND (r.ended_at IS NULL OR r.ended_at > m.until)
    WHERE m.ended_at IS NULL
      AND m.until <= p_as_of
      AND (r.threshold IS NULL OR bucket(m.user_id, s.salt) >= r.threshold)

    UNION ALL
    -- Memberships of deleted segments that are not closed yet.
    SELECT m.user_id, m.segment_id, ended_by_deletion(m.since, s.deleted_at), 'remove', 'explicit', 'segment-deleted',
           'segmentd', NULL, m.until, NULL
    FROM segments s
    JOIN memberships m ON m.segment_id = s.id AND m.ended_at IS NULL AND m.included
    WHERE s.deleted_at <= p_as_of
      AND (m.until IS NULL OR m.until > s.deleted_at)

    UNION ALL
    -- A life begins under the percentages that hold.
    SELECT l.user_id, r.segment_id, l.registered_at, 'add', 'rollout', 'rollout', 'segmentd', NULL, NULL, NULL
    FROM registrations l
    JOIN rollouts r ON r.started_at <= l.registered_at AND (r.ended_at IS NULL OR r.ended_at > l.registered_at)
    JOIN segments s ON s.id = r.segment_id
    WHERE bucket(l.user_id, s.salt) < r.threshold

    UNION ALL
    -- A percentage changes within a life, unless an override decides then; one that ends at that very instant
    -- tells the change itself.
    SELECT l.user_id, e.segment_id, e.at, CASE WHEN e.threshold_after > e.threshold_before THEN 'add' ELSE 'remove' END,
           'rollout', e.cause, 'segmentd', NULL, NULL, NULL
    FROM rollout_edges e
    JOIN segments s ON s.id = e.segment_id
    JOIN registrations l ON l.registered_at < e.at AND (l.ended_at IS NULL OR l.ended_at > e.at)
    WHERE bucket(l.user_id, s.salt)
          BETWEEN least(e.threshold_before, e.threshold_after) AND greatest(e.threshold_before, e.threshold_after) - 1
      AND NOT EXISTS (
          SELECT FROM memberships m
          WHERE m.segment_id = e.segment_id AND m.user_id = l.user_id AND m.since <= e.at
            AND (m.ended_at IS NULL OR m.ended_at >= e.at) AND (m.until IS NULL OR m.until >= e.at)
      )

    UNION ALL
    -- A life ends under the percentages that hold.
    SELECT l.user_id, r.segment_id, l.ended_at, 'remove', 'rollout', 'user-deleted', 'segmentd', NULL, NULL, NULL
    FROM registrations l
    JOIN rollouts r ON r.started_at < l.ended_at AND (r.ended_at IS NULL OR r.ended_at >= l.ended_at)
    JOIN segments s ON s.id = r.segment_id
    WHERE bucket(l.user_id, s.salt) < r.threshold
      AND NOT EXISTS (
          SELECT FROM memberships m
          WHERE m.segment_id = r.segment_id AND m.user_id = l.user_id AND m.since <= l.ended_at
            AND (m.ended_at IS NULL OR m.ended_at >= l.ended_at) AND (m.until IS NULL OR m.until >= l.ended_at)
      )
$$;
