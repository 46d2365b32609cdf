-- Every change of segments and rollouts, each one call in one transaction.

-- Takes the catalog alone.
CREATE FUNCTION lock_catalog() RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('lock_timeout', '2s', true);
    PERFORM pg_advisory_xact_lock(catalog_lock());
END
$$;

-- Gives the time of a change, later than every write before it; the caller has the catalog alone.
CREATE FUNCTION raise_catalog() RETURNS timestamptz
    LANGUAGE sql AS $$
    UPDATE catalog
    SET version = version + 1, last_at = greatest(clock_instant(), last_at + interval '1 microsecond')
    RETURNING last_at
$$;

-- What clients see of the living segments.
CREATE VIEW living_segments AS
SELECT s.id, s.slug, s.description, r.percent, s.salt, s.created_at
FROM segments s
LEFT JOIN rollouts r ON r.segment_id = s.id AND r.ended_at IS NULL
WHERE s.deleted_at IS NULL;

CREATE FUNCTION create_segment(p_slug text, p_description text, p_percent numeric, p_salt bigint)
    RETURNS SETOF living_segments
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    new_id bigint;
BEGIN
    PERFORM lock_catalog();
    now_at := raise_catalog();
    INSERT INTO segments (slug, description, salt, created_at)
    VALUES (p_slug, p_description, p_salt, now_at)
    RETURNING id INTO new_id;
    IF p_percent IS NOT NULL THEN
        INSERT INTO rollouts (segment_id, percent, started_at) VALUES (new_id, p_percent, now_at);
    END IF;
    RETURN QUERY SELECT * FROM living_segments s WHERE s.id = new_id;
END
$$;

-- Renames, describes, or changes the percentage; null leaves a thing as it is. A percentage is ended with
-- `p_ends_rollout`. No row: there is no such living segment.
CREATE FUNCTION update_segment(
    p_slug text, p_new_slug text, p_description text, p_percent numeric, p_ends_rollout boolean
)
    RETURNS SETOF living_segments
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    segment living_segments;
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
    RETURN QUERY SELECT * FROM living_segments s WHERE s.id = segment.id;
END
$$;

-- Ends every membership at once: readers look at `deleted_at`, and the events follow with that same time (settle).
-- False: there is no such living segment.
CREATE FUNCTION delete_segment(p_slug text) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    now_at timestamptz;
    old_id bigint;
BEGIN
    PERFORM lock_catalog();
    SELECT s.id INTO old_id FROM living_segments s WHERE lower(s.slug) = lower(p_slug COLLATE "C") AND s.slug = p_slug;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    now_at := raise_catalog();
    UPDATE segments s SET deleted_at = now_at WHERE s.id = old_id;
    UPDATE rollouts SET ended_at = now_at WHERE segment_id = old_id AND ended_at IS NULL;
    RETURN true;
END
$$;
