-- Changes of segments and rollouts, each one call in one transaction.

-- Takes the catalog lock alone, so that no membership changes meanwhile.
CREATE OR REPLACE FUNCTION lock_catalog() RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    PERFORM pg_advisory_xact_lock(catalog_lock());
END
$$;

-- Gives the time of a change, later than everything before it. The caller holds the catalog lock alone.
CREATE OR REPLACE FUNCTION raise_catalog() RETURNS timestamptz
    LANGUAGE sql AS $$
    UPDATE catalog SET version = version + 1;
    SELECT raise_high_water_mark();
$$;

-- What clients see of the living segments.
CREATE OR REPLACE VIEW living_segments AS
SELECT s.id, s.slug, s.description, r.percent, s.salt, s.created_at, r.threshold
FROM segments s
LEFT JOIN rollouts r ON r.segment_id = s.id AND r.ended_at IS NULL
WHERE s.deleted_at IS NULL;

-- The living segment with this slug in any case. The index folds case by collation C, so the look-up does too: in the
-- database's own collation `I` may have another small letter. The planner inlines these functions, like views.
CREATE OR REPLACE FUNCTION living_segment_in_any_case(p_slug text) RETURNS SETOF living_segments
    LANGUAGE sql STABLE AS $$
    SELECT * FROM living_segments s WHERE lower(s.slug) = lower(p_slug COLLATE "C")
$$;

-- The living segment with exactly this slug.
CREATE OR REPLACE FUNCTION living_segment(p_slug text) RETURNS SETOF living_segments
    LANGUAGE sql STABLE AS $$
    SELECT * FROM living_segments s WHERE s.slug = p_slug
$$;

-- Deleted segments that may have open memberships, of users after `settled_to`.
CREATE OR REPLACE VIEW segments_to_settle AS
SELECT s.id, s.settled_to
FROM segments s
WHERE s.deleted_at IS NOT NULL AND s.settled_at IS NULL;

-- What the audit log shows of a segment.
CREATE OR REPLACE FUNCTION audited(p_segment living_segments) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'slug', p_segment.slug,
        'description', p_segment.description,
        'percent', trim_scale(p_segment.percent),
        'salt', p_segment.salt::text
    )
$$;

-- Notes a change of a segment for the feed.
CREATE OR REPLACE FUNCTION note_segment_event(
    p_at timestamptz, p_operation segment_operation, p_before living_segments, p_after living_segments, p_actor text
) RETURNS void
    LANGUAGE sql AS $$
    INSERT INTO segment_events (segment_id, at, operation, slug, slug_before, percent_before, percent_after, actor)
    VALUES (
        coalesce(p_after.id, p_before.id), p_at, p_operation, coalesce(p_after.slug, p_before.slug),
        CASE WHEN p_operation = 'renamed' THEN p_before.slug END,
        CASE WHEN p_operation <> 'renamed' THEN p_before.percent END,
        CASE WHEN p_operation <> 'renamed' THEN p_after.percent END,
        p_actor
    )
$$;

-- Makes a segment. Raises unique_violation where a living one has the slug in any case.
CREATE OR REPLACE FUNCTION create_segment(
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
    -- Check before the first write: a refused INSERT would use up an id, and there are 2^30 of them.
    IF EXISTS (SELECT FROM living_segment_in_any_case(p_slug)) THEN
        RAISE unique_violation USING MESSAGE = 'a living segment has this slug';
    END IF;
    now_at := raise_catalog();
    INSERT INTO segments (slug, description, salt, created_at)
    VALUES (p_slug, p_description, p_salt, now_at)
    RETURNING id INTO new_id;
    IF p_percent IS NOT NULL THEN
        INSERT INTO rollouts (segment_id, percent, started_at) VALUES (new_id, p_percent, now_at);
    END IF;
    SELECT * INTO created FROM living_segments s WHERE s.id = new_id;
    PERFORM note_segment_event(now_at, 'created', NULL, created, p_actor);
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'segment-created', p_slug, NULL, audited(created));
    RETURN NEXT created;
END
$$;

-- Changes the slug, the description or the percentage; null leaves a value as it is. `p_ends_rollout` ends the
-- percentage. A segment that no longer has the values in `p_seen` stays as it is. No row: there is no such living
-- segment.
CREATE OR REPLACE FUNCTION update_segment(
    p_slug text, p_new_slug text, p_description text, p_percent numeric, p_ends_rollout boolean,
    p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL, p_seen jsonb DEFAULT '{}'
)
    RETURNS SETOF living_segments
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    segment living_segments;
    changed living_segments;
BEGIN
    PERFORM lock_catalog();
    SELECT * INTO segment FROM living_segment(p_slug);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF NOT to_jsonb(segment) @> p_seen THEN
        RETURN NEXT segment;
        RETURN;
    END IF;
    now_at := raise_catalog();
    UPDATE segments s
    SET slug = coalesce(p_new_slug, s.slug), description = coalesce(p_description, s.description)
    WHERE s.id = segment.id;

    IF p_ends_rollout OR p_percent <> segment.percent THEN
        UPDATE rollouts SET ended_at = now_at WHERE segment_id = segment.id AND ended_at IS NULL;
    END IF;
    -- The same percentage again makes no new version.
    IF p_percent IS DISTINCT FROM segment.percent AND p_percent IS NOT NULL THEN
        INSERT INTO rollouts (segment_id, percent, started_at) VALUES (segment.id, p_percent, now_at);
    END IF;
    SELECT * INTO changed FROM living_segments s WHERE s.id = segment.id;
    IF changed.slug <> segment.slug THEN
        PERFORM note_segment_event(now_at, 'renamed', segment, changed, p_actor);
    END IF;
    IF changed.percent IS DISTINCT FROM segment.percent THEN
        PERFORM note_segment_event(now_at, 'percent', segment, changed, p_actor);
    END IF;
    IF changed IS DISTINCT FROM segment THEN
        PERFORM note_in_audit_log(
            p_actor, p_on_behalf_of, 'segment-changed', p_slug, audited(segment), audited(changed)
        );
    END IF;
    RETURN NEXT changed;
END
$$;

-- Ends every membership at once: readers look at `deleted_at`; `settle` writes the events later, with that same time.
-- False: there is no such living segment.
CREATE OR REPLACE FUNCTION delete_segment(
    p_slug text, p_actor text DEFAULT 'anonymous', p_on_behalf_of text DEFAULT NULL
) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    old living_segments;
BEGIN
    PERFORM lock_catalog();
    SELECT * INTO old FROM living_segment(p_slug);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    now_at := raise_catalog();
    UPDATE segments s SET deleted_at = now_at WHERE s.id = old.id;
    UPDATE rollouts SET ended_at = now_at WHERE segment_id = old.id AND ended_at IS NULL;
    PERFORM note_segment_event(now_at, 'deleted', old, NULL, p_actor);
    PERFORM note_in_audit_log(p_actor, p_on_behalf_of, 'segment-deleted', p_slug, audited(old), NULL);
    RETURN true;
END
$$;
