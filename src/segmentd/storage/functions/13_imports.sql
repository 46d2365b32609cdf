-- Imports: rows are staged as they come, checked as a set, and applied in batches.

-- Imports begin one after the other: each counts what those before it took.
CREATE OR REPLACE FUNCTION import_lock() RETURNS bigint LANGUAGE sql IMMUTABLE RETURN 7236837905;

-- Each batch of an import shares this lock, and its end takes it alone: after the batches in hand, and before all others.
-- A row lock would let one batch after the other go first.
CREATE OR REPLACE FUNCTION import_end_lock(p_number bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE
    RETURN hashint8extended(p_number, 7236837906);

-- The bytes that all imports store: their lines, what these mean, and their bad rows, each as large as they usually are.
-- Each import counts as 256 KiB at least, so that a bound of bytes bounds their number too.
CREATE OR REPLACE FUNCTION import_bytes() RETURNS bigint
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(greatest(
        CASE WHEN i.staged THEN i.bytes + i.rows * 160 ELSE 0 END + least(i.invalid_rows, 1000000) * 300, 262144
    )), 0)::bigint
    FROM imports i
    WHERE i.staged OR i.invalid_rows > 0
$$;

-- What decides whether an import may begin. Until the transaction ends, others wait.
CREATE OR REPLACE FUNCTION import_load(
    p_caller text, OUT of_caller bigint, OUT of_all bigint, OUT stored_bytes bigint
)
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(import_lock());
    SELECT count(*) FILTER (WHERE i.ordered_by = p_caller), count(*)
    INTO of_caller, of_all
    FROM imports i
    WHERE i.finished_at IS NULL;
    stored_bytes := import_bytes();
END
$$;

-- How far an import was applied.
CREATE OR REPLACE FUNCTION import_progress(
    p_number bigint, OUT users bigint, OUT added bigint, OUT removed bigint, OUT updated bigint, OUT unchanged bigint
)
    LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(r.users), 0)::bigint, coalesce(sum(r.added), 0)::bigint, coalesce(sum(r.removed), 0)::bigint,
           coalesce(sum(r.updated), 0)::bigint, coalesce(sum(r.unchanged), 0)::bigint
    FROM import_ranges r
    WHERE r.import_number = p_number
$$;

-- What callers see of an import.
CREATE OR REPLACE VIEW shown_imports AS
SELECT i.number, i.id, i.status, i.operation, s.slug AS segment, i.dry_run, i.rows, i.invalid_rows, i.users,
       p.users AS applied_users, p.added, p.removed, p.updated, p.unchanged,
       coalesce((
           SELECT jsonb_agg(jsonb_build_object('line', e.line, 'detail', e.detail, 'text', e.text) ORDER BY e.line)
           FROM (
               SELECT * FROM import_errors e WHERE e.import_number = i.number ORDER BY e.line LIMIT 100
           ) e
       ), '[]') AS errors,
       i.sample, i.reason, i.detail, i.sha256, i.created_at, i.finished_at
FROM imports i
CROSS JOIN LATERAL import_progress(i.number) p
LEFT JOIN segments s ON s.id = i.segment_id;

-- Makes the table of an import's lines. A block is a run of lines.
CREATE OR REPLACE FUNCTION make_import_blocks(p_number bigint) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    blocks text := 'import_blocks_' || p_number;
BEGIN
    EXECUTE format(
        'CREATE TABLE %I (first_line bigint PRIMARY KEY, parsed boolean NOT NULL, content text NOT NULL)', blocks
    );
    -- Compressing takes longer than writing.
    EXECUTE format('ALTER TABLE %I ALTER content SET STORAGE EXTERNAL', blocks);
END
$$;

-- Drops the tables of an import that is final.
CREATE OR REPLACE FUNCTION drop_import_tables(p_number bigint) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS %I, %I', 'import_blocks_' || p_number, 'import_decisions_' || p_number);
    UPDATE imports SET staged = false WHERE number = p_number;
END
$$;

-- What the audit log shows of an import.
CREATE OR REPLACE FUNCTION audited_import(p_import imports) RETURNS jsonb
    LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('import', p_import.id, 'operation', p_import.operation, 'rows', p_import.rows)
           || CASE WHEN p_import.finished_at IS NULL THEN '{}' ELSE jsonb_build_object(
               'status', p_import.status, 'users', p.users, 'added', p.added, 'removed', p.removed,
               'updated', p.updated, 'unchanged', p.unchanged
           ) END
    FROM import_progress(p_import.number) p
$$;

-- Notes in the audit log what an import begins to change, or has changed. A dry run changes nothing.
CREATE OR REPLACE FUNCTION note_import(p_import imports, p_operation text, p_actor text, p_on_behalf_of text)
    RETURNS void
    LANGUAGE sql AS $$
    SELECT note_in_audit_log(
        p_actor, p_on_behalf_of, p_operation,
        (SELECT s.slug FROM segments s WHERE s.id = p_import.segment_id), NULL, audited_import(p_import)
    )
    WHERE NOT p_import.dry_run
$$;

-- Ends an import, after its batches in hand. False: it had ended before. The audit log has the end of one that began to change users; the actor is
-- the one who ended it.
CREATE OR REPLACE FUNCTION end_import(
    p_number bigint, p_status text, p_detail text, p_actor text DEFAULT 'segmentd', p_on_behalf_of text DEFAULT NULL
) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    old_status text;
    ended imports;
BEGIN
    PERFORM pg_advisory_xact_lock(import_end_lock(p_number));
    SELECT i.status INTO old_status FROM imports i WHERE i.number = p_number AND i.finished_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE imports
    SET status = p_status, detail = p_detail, finished_at = greatest(clock_instant(), created_at)
    WHERE number = p_number
    RETURNING * INTO ended;
    IF old_status = 'applying' THEN
        PERFORM note_import(ended, 'import-ended', p_actor, p_on_behalf_of);
    END IF;
    RETURN true;
END
$$;

-- The instant that a text of RFC 3339 names; null: it names none within the years 1 to 9999. The same as read_instant
-- of domain/instants.py. The offset is applied by hand, because PostgreSQL knows none beyond 15:59.
CREATE OR REPLACE FUNCTION rfc3339_instant(p_text text) RETURNS timestamptz
    LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN i.instant >= '0001-01-01 00:00:00+00' AND i.instant < '10000-01-01 00:00:00+00' THEN i.instant END
    FROM (
        SELECT CASE
            WHEN p.year BETWEEN '0001' AND '9999' AND p.month BETWEEN '01' AND '12'
                AND p.day BETWEEN '01' AND CASE
                    WHEN p.month IN ('04', '06', '09', '11') THEN '30'
                    WHEN p.month <> '02' THEN '31'
                    WHEN p.year::integer % 4 = 0 AND (p.year::integer % 100 <> 0 OR p.year::integer % 400 = 0) THEN '29'
                    ELSE '28'
                END
                AND p.hour < '24' AND p.minute < '60' AND p.second < '60'
                AND coalesce(p.off_hours, '00') < '24' AND coalesce(p.off_minutes, '00') < '60'
            THEN (p.year || '-' || p.month || '-' || p.day || ' ' || p.hour || ':' || p.minute || ':' || p.second)
                 ::timestamp AT TIME ZONE 'UTC'
                 - coalesce((p.sign || p.off_hours || ':' || p.off_minutes)::interval, '0')
        END AS instant
        FROM (
            SELECT m[1] AS year, m[2] AS month, m[3] AS day, m[4] AS hour, m[5] AS minute, m[6] AS second,
                   m[7] AS sign, m[8] AS off_hours, m[9] AS off_minutes
            FROM regexp_match(
                p_text COLLATE "C",
                '^([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]+)?)'
                '(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))$'
            ) AS found (m)
        ) p
    ) i
$$;

-- How an error names a value: by its column where there are columns.
CREATE OR REPLACE FUNCTION import_label(p_import imports, p_name text) RETURNS text
    LANGUAGE sql STABLE
    RETURN coalesce('column ' || (p_import.places ->> p_name) || ' (' || p_name || ')', p_name) || ': ';

-- The SELECT of the values in an import's lines, as text: line, text, width, user_id, segment, operation, until and
-- ttl_seconds. A parsed block has them in this order, a plain one where the header says.
CREATE OR REPLACE FUNCTION import_values_sql(p_import imports) RETURNS text
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    blocks text := quote_ident('import_blocks_' || p_import.number);
    plain text;
    template CONSTANT text := $sql$
        SELECT b.first_line + l.place - 1 AS line, %s AS text, %s AS width, %s
        FROM %s b
        CROSS JOIN LATERAL unnest(string_to_array(b.content, E'\n')) WITH ORDINALITY AS l (text, place)
        CROSS JOIN LATERAL (SELECT %s AS parts OFFSET 0) v
        WHERE %s AND l.text <> ''
    $sql$;
BEGIN
    SELECT string_agg(
        CASE WHEN p_import.places ? name THEN format('nullif(btrim(v.parts[%s]), %L)', p_import.places ->> name, '')
             ELSE 'NULL::text' END || ' AS ' || name,
        ', ' ORDER BY place
    )
    INTO plain
    FROM unnest(ARRAY ['user_id', 'segment', 'operation', 'until', 'ttl_seconds']) WITH ORDINALITY AS c (name, place);
    RETURN concat_ws(
        ' UNION ALL ',
        format(
            template, 'v.parts[6]', coalesce(p_import.width, 0),
            $sql$ nullif(btrim(v.parts[1]), '') AS user_id, nullif(btrim(v.parts[2]), '') AS segment,
                  nullif(btrim(v.parts[3]), '') AS operation, nullif(btrim(v.parts[4]), '') AS until,
                  nullif(btrim(v.parts[5]), '') AS ttl_seconds $sql$,
            blocks, $sql$ string_to_array(l.text, E'\x1f') $sql$, 'b.parsed'
        ),
        CASE WHEN p_import.format = 'csv' THEN format(
            template, 'l.text', 'cardinality(v.parts)', plain, blocks,
            format('string_to_array(l.text, %L)', p_import.separator), 'NOT b.parsed'
        ) END
    );
END
$$;

-- The SELECT of what the rows of an import mean: line, text, user_id, segment_id, adds, until, ttl_seconds, and detail,
-- which says what is wrong; then user_id is null where it cannot be read, and the other values mean nothing.
CREATE OR REPLACE FUNCTION import_rows_sql(p_import imports) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT format(
        $sql$
        SELECT r.line, r.text, r.user_id, r.segment_id, r.adds, r.until, r.ttl_seconds,
            CASE
                WHEN r.width <> %1$L THEN format('has %%s columns, and the first line has %%s', r.width, %1$L)
                WHEN r.user_id IS NULL AND r.user_id_text IS NULL THEN %2$L || 'the id of a user is missing'
                WHEN r.user_id IS NULL
                    THEN %2$L || 'must be an integer from 1 to 9223372036854775807, in digits, not beginning with 0'
                WHEN r.segment_id IS NULL AND r.segment IS NULL
                    THEN %3$L || 'the row names no segment, and the query has none'
                WHEN r.segment_id IS NULL THEN %3$L || 'no living segment has the slug ' || left(r.segment, 128)
                WHEN r.adds IS NULL THEN %4$L || 'must be add or remove'
                WHEN r.until_text IS NOT NULL AND r.ttl_text IS NOT NULL
                    THEN %5$L || 'until and ttl_seconds exclude each other'
                WHEN NOT r.adds AND r.operation IS NOT NULL AND coalesce(r.until_text, r.ttl_text) IS NOT NULL
                    THEN %4$L || 'a removal has no term'
                WHEN r.until_text IS NOT NULL AND r.until IS NULL AND r.adds
                    THEN %5$L || 'a time is written like 2026-11-20T10:15:30Z, with an offset, within the years 1 to 9999'
                WHEN r.until <= %7$L THEN %5$L || 'the term must end in the future'
                WHEN r.ttl_text IS NOT NULL AND r.ttl_seconds IS NULL AND r.adds
                    THEN %6$L || 'must be an integer from 1 to 1000000000000'
                WHEN r.ttl_seconds * interval '1 second' >= '10000-01-01 00:00:00+00' - %7$L::timestamptz
                    THEN %6$L || 'the term must end before the year 10000'
                WHEN %8$L AND r.segment_id <> %9$L
                    THEN %3$L || 'a list that replaces the members of one segment names another one'
                WHEN %8$L AND NOT r.adds
                    THEN %4$L || 'a list that replaces the members of a segment can remove nobody'
            END AS detail
        FROM (
            SELECT v.line, v.text, v.width, v.segment, v.operation, v.user_id AS user_id_text,
                v.until AS until_text, v.ttl_seconds AS ttl_text, o.adds,
                CASE
                    WHEN length(v.user_id) <= 19 AND v.user_id COLLATE "C" !~ '[^0-9]' AND v.user_id COLLATE "C" >= '1'
                        AND (length(v.user_id) < 19 OR v.user_id COLLATE "C" <= '9223372036854775807')
                    THEN v.user_id::bigint
                END AS user_id,
                coalesce(s.id, CASE WHEN v.segment IS NULL THEN %9$L::bigint END) AS segment_id,
                CASE
                    WHEN o.adds AND coalesce(v.until, v.ttl_seconds) IS NULL THEN %10$L::timestamptz
                    WHEN o.adds AND v.until IS NOT NULL THEN rfc3339_instant(v.until)
                END AS until,
                CASE
                    WHEN o.adds AND coalesce(v.until, v.ttl_seconds) IS NULL THEN %11$L::bigint
                    WHEN o.adds AND v.ttl_seconds COLLATE "C" ~ '^[1-9][0-9]{0,11}$|^1000000000000$'
                        THEN v.ttl_seconds::bigint
                END AS ttl_seconds
            FROM (%12$s) v
            LEFT JOIN segments s ON s.slug = v.segment COLLATE "C" AND s.deleted_at IS NULL
            CROSS JOIN LATERAL (
                SELECT CASE WHEN v.operation IS NULL THEN %13$L::boolean WHEN v.operation = 'add' THEN true
                            WHEN v.operation = 'remove' THEN false END AS adds
            ) o
            OFFSET 0
        ) r
        $sql$,
        coalesce(p_import.width, 0),
        import_label(p_import, 'user_id'), import_label(p_import, 'segment'), import_label(p_import, 'operation'),
        import_label(p_import, 'until'), import_label(p_import, 'ttl_seconds'),
        greatest(clock_instant(), (SELECT c.last_at FROM catalog c)),
        p_import.operation = 'replace', p_import.segment_id, p_import.until, p_import.ttl_seconds,
        import_values_sql(p_import), p_import.operation <> 'remove'
    )
$$;

-- The rows of users with more segments than one change may have, from the first one too many on, are bad.
CREATE OR REPLACE FUNCTION refuse_too_many_segments(p_import imports, p_most integer) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    decisions text := quote_ident('import_decisions_' || p_import.number);
BEGIN
    IF (SELECT count(*) FROM segments s WHERE s.deleted_at IS NULL) <= p_most THEN
        RETURN;
    END IF;
    EXECUTE format(
        $sql$
        UPDATE %1$s d
        SET is_bad = true, refused = 'too many'
        FROM (
            SELECT f.user_id, f.segment_id, row_number() OVER (PARTITION BY f.user_id ORDER BY f.line) AS place
            FROM %1$s f
            WHERE NOT f.is_bad
        ) n
        WHERE n.place > %2$L AND d.user_id = n.user_id AND d.segment_id = n.segment_id AND NOT d.is_bad
        $sql$,
        decisions, p_most
    );
END
$$;

-- Stores the first bad rows: what is wrong with them is found by reading all rows again.
CREATE OR REPLACE FUNCTION note_import_errors(p_import imports, p_most bigint, p_most_segments integer) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        $sql$
        INSERT INTO import_errors (import_number, line, detail, text)
        SELECT %L, b.line, b.detail, left(b.text, 200)
        FROM (
            SELECT r.line, r.text,
                coalesce(r.detail, CASE d.refused
                    WHEN 'contradicts' THEN
                        'contradicts line ' || CASE WHEN r.line = d.line THEN d.last_line ELSE d.line END
                    WHEN 'too many' THEN 'the user is in more than %s segments of this file, as no change may have'
                END) AS detail
            FROM (%s) r
            LEFT JOIN (SELECT * FROM %I WHERE refused IS NOT NULL) d
                   ON d.user_id = r.user_id AND d.segment_id = r.segment_id
        ) b
        WHERE b.detail IS NOT NULL
        ORDER BY b.line
        LIMIT %L
        ON CONFLICT DO NOTHING
        $sql$,
        p_import.number, p_most_segments, import_rows_sql(p_import), 'import_decisions_' || p_import.number, p_most
    );
END
$$;

-- Those who are to leave a segment because the list that replaces its members leaves them out: the explicit members of
-- this moment. Who has a row in the list stays as they are, even if the row is bad.
CREATE OR REPLACE FUNCTION add_import_removals(p_import imports) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    decisions text := quote_ident('import_decisions_' || p_import.number);
BEGIN
    EXECUTE format(
        $sql$
        INSERT INTO %1$s (user_id, segment_id, rows, adds, is_bad)
        SELECT m.user_id, m.segment_id, 0, false, false
        FROM memberships m
        WHERE m.segment_id = %2$L AND m.ended_at IS NULL AND m.included
          AND (m.until IS NULL OR m.until > (SELECT p.at FROM present p))
          AND NOT EXISTS (SELECT FROM %1$s d WHERE d.user_id = m.user_id)
        $sql$,
        decisions, p_import.segment_id
    );
END
$$;

-- Why an import of one segment cannot be applied, or not any further; null: it can.
CREATE OR REPLACE FUNCTION import_refusal(p_import imports) RETURNS text
    LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN s.deleted_at IS NOT NULL THEN format('The segment %s was deleted meanwhile.', s.slug)
        WHEN p_import.operation = 'replace'
            AND EXISTS (SELECT FROM rollouts r WHERE r.segment_id = s.id AND r.ended_at IS NULL)
        THEN format('The segment %s has a percentage by now, so its members cannot be replaced.', s.slug)
    END
    FROM segments s
    WHERE s.id = p_import.segment_id
$$;

-- Divides the users of an import into so many ranges with about as many decisions each; few decisions, and those of a dry
-- run, which shows the first ones, are one range.
CREATE OR REPLACE FUNCTION make_import_ranges(p_import imports, p_decisions bigint, p_ranges integer) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    ranges CONSTANT integer := CASE WHEN p_import.dry_run THEN 1 ELSE least(p_ranges, 1 + p_decisions / 1000) END;
    ends_with bigint := 0;
    begins_after bigint;
BEGIN
    FOR place IN 1 .. ranges LOOP
        begins_after := ends_with;
        IF place < ranges THEN
            EXECUTE format(
                'SELECT user_id FROM %I WHERE NOT is_bad AND user_id > $1 ORDER BY user_id OFFSET $2 LIMIT 1',
                'import_decisions_' || p_import.number
            )
            INTO ends_with USING begins_after, p_decisions / ranges;
        ELSE
            ends_with := 9223372036854775807;
        END IF;
        INSERT INTO import_ranges (import_number, place, last_user, applied_to)
        VALUES (p_import.number, place, ends_with, begins_after);
    END LOOP;
END
$$;

-- Checks all rows of an import as a set, and stores what they mean. Nothing is changed yet. A bad row fails the import,
-- unless bad rows are to be skipped. False: the import is not to be checked; the caller then undoes the transaction.
--
-- While it runs, it holds no lock that anybody waits for: a caller may cancel the import meanwhile.
CREATE OR REPLACE FUNCTION check_import(
    p_number bigint, p_most_bad bigint, p_most_segments integer, p_ranges integer
) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    i imports := (SELECT i FROM imports i WHERE i.number = p_number AND i.status = 'checking');
    decisions text := quote_ident('import_decisions_' || p_number);
    bad bigint;
    users_found bigint;
    decisions_found bigint;
    refusal text;
BEGIN
    IF i IS NULL THEN
        RETURN false;
    END IF;
    PERFORM set_config('work_mem', '64MB', true), set_config('maintenance_work_mem', '64MB', true),
            -- The planner does not know how many lines a block has; hash tables of millions of users would spill.
            set_config('enable_hashagg', 'off', true);
    EXECUTE format('DROP TABLE IF EXISTS %s', decisions);
    EXECUTE format(
        'CREATE TABLE %s ('
        '  user_id bigint, segment_id bigint, until timestamptz, ttl_seconds bigint, line bigint, last_line bigint,'
        '  rows bigint NOT NULL, adds boolean, is_bad boolean NOT NULL, refused text'
        ')',
        decisions
    );
    -- In the order of users, so that the batches read the table from its beginning to its end.
    EXECUTE format(
        $sql$
        INSERT INTO %s
        SELECT g.user_id, g.segment_id, g.until, g.ttl_seconds, g.line, g.last_line, g.rows, g.adds,
               g.is_bad OR g.contradicts, CASE WHEN g.contradicts THEN 'contradicts' END
        FROM (
            SELECT r.user_id, r.segment_id, r.is_bad, min(r.until) AS until, min(r.ttl_seconds) AS ttl_seconds,
                   min(r.line) AS line, max(r.line) AS last_line, count(*) AS rows, bool_or(r.adds) AS adds,
                   NOT r.is_bad AND (
                       bool_or(r.adds) <> bool_and(r.adds)
                       OR count(r.until) NOT IN (0, count(*)) OR coalesce(min(r.until) <> max(r.until), false)
                       OR count(r.ttl_seconds) NOT IN (0, count(*))
                       OR coalesce(min(r.ttl_seconds) <> max(r.ttl_seconds), false)
                   ) AS contradicts
            FROM (
                SELECT m.user_id, m.segment_id, m.adds, m.until, m.ttl_seconds, m.line, m.detail IS NOT NULL AS is_bad
                FROM (%s) m
            ) r
            GROUP BY r.user_id, r.segment_id, r.is_bad
        ) g
        ORDER BY g.user_id, g.segment_id
        $sql$,
        decisions, import_rows_sql(i)
    );
    EXECUTE format('CREATE INDEX ON %s (user_id) WHERE NOT is_bad', decisions);
    PERFORM refuse_too_many_segments(i, p_most_segments);
    EXECUTE format('SELECT coalesce(sum(rows), 0) FROM %s WHERE is_bad', decisions) INTO bad;
    IF bad > 0 THEN
        PERFORM note_import_errors(i, p_most_bad, p_most_segments);
    END IF;
    IF i.operation = 'replace' THEN
        PERFORM add_import_removals(i);
    END IF;
    EXECUTE format('ANALYZE %s', decisions);
    EXECUTE format(
        'SELECT count(*), coalesce(sum(u.decisions), 0)'
        ' FROM (SELECT count(*) AS decisions FROM %s WHERE NOT is_bad GROUP BY user_id) u',
        decisions
    )
    INTO users_found, decisions_found;

    bad := bad + i.invalid_rows;
    SELECT CASE
        WHEN i.rows = 0 THEN 'The file has no rows.'
        WHEN bad > p_most_bad THEN format('More than %s rows are bad; is this the right file?', p_most_bad)
        WHEN bad > 0 AND NOT i.skip_invalid THEN format('%s of %s rows are bad; nothing was changed.', bad, i.rows)
        WHEN bad >= i.rows THEN 'All rows are bad; nothing was changed.'
        ELSE import_refusal(i) || ' Nothing was changed.'
    END
    INTO refusal;
    UPDATE imports
    SET status = CASE WHEN refusal IS NULL THEN 'applying' ELSE 'failed' END, detail = refusal, invalid_rows = bad,
        users = users_found, finished_at = CASE WHEN refusal IS NOT NULL THEN greatest(clock_instant(), created_at) END
    WHERE number = p_number AND status = 'checking'
    RETURNING * INTO i;
    IF i IS NULL THEN
        RETURN false;  -- canceled meanwhile
    END IF;
    IF refusal IS NULL THEN
        PERFORM make_import_ranges(i, decisions_found, p_ranges);
        PERFORM note_import(i, 'import-started', i.ordered_by, i.on_behalf_of);
    END IF;
    RETURN true;
END
$$;

-- The text of one line of an import, as it is shown of a bad row.
CREATE OR REPLACE FUNCTION import_line(p_number bigint, p_line bigint) RETURNS text
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    line text;
BEGIN
    EXECUTE format(
        $sql$
        SELECT left(CASE WHEN b.parsed THEN split_part(l.text, E'\x1f', 6) ELSE l.text END, 200)
        FROM (SELECT * FROM %I WHERE first_line <= %L ORDER BY first_line DESC LIMIT 1) b
        CROSS JOIN LATERAL (SELECT split_part(b.content, E'\n', (%L - b.first_line + 1)::integer) AS text) l
        $sql$,
        'import_blocks_' || p_number, p_line, p_line
    )
    INTO line;
    RETURN coalesce(line, '');
END
$$;

-- The rows of one batch: those of the range's next users, about so many; all rows of a user are in one batch, so that
-- they are one change. Arrays without a name of users in it have one element for each decision that can be made,
-- in the order of users; `places` are those of its user in `user_ids`. `refused`: the rows that were good when they were
-- checked, and cannot be applied any more; `of_deleted` is the first line among them whose segment was deleted.
-- `last_user` is null where no rows are left.
CREATE OR REPLACE FUNCTION next_import_rows(
    p_range import_ranges, p_rows integer, p_at timestamptz,
    OUT last_user bigint, OUT users bigint, OUT refused bigint, OUT of_deleted bigint,
    OUT user_ids bigint[], OUT places integer[], OUT slugs text[], OUT adds boolean[], OUT untils timestamptz[],
    OUT ttl_seconds bigint[]
)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    decisions text := quote_ident('import_decisions_' || p_range.import_number);
BEGIN
    EXECUTE format(
        'SELECT user_id FROM %s WHERE NOT is_bad AND user_id > $1 AND user_id <= $3 ORDER BY user_id OFFSET $2 LIMIT 1',
        decisions
    )
    INTO last_user USING p_range.applied_to, p_rows - 1, p_range.last_user;
    EXECUTE format(
        $sql$
        SELECT max(d.user_id), count(DISTINCT d.user_id), sum(d.rows) FILTER (WHERE NOT d.is_good),
               min(d.line) FILTER (WHERE d.is_deleted),
               array_agg(d.user_id) FILTER (WHERE d.is_good AND d.is_first), array_agg(d.place) FILTER (WHERE d.is_good),
               array_agg(d.slug) FILTER (WHERE d.is_good), array_agg(d.adds) FILTER (WHERE d.is_good),
               array_agg(d.until) FILTER (WHERE d.is_good), array_agg(d.ttl_seconds) FILTER (WHERE d.is_good)
        FROM (
            SELECT r.*, (dense_rank() OVER of_good)::integer AS place,
                   lag(r.user_id) OVER of_good IS DISTINCT FROM r.user_id AS is_first
            FROM (
                SELECT d.*, s.slug, s.deleted_at IS NOT NULL AS is_deleted,
                       s.deleted_at IS NULL AND (d.until > $3) IS NOT FALSE AS is_good
                FROM %s d
                JOIN segments s ON s.id = d.segment_id
                WHERE NOT d.is_bad AND d.user_id > $1 AND d.user_id <= $2
            ) r
            WINDOW of_good AS (PARTITION BY r.is_good ORDER BY r.user_id)
        ) d
        $sql$,
        decisions
    )
    INTO last_user, users, refused, of_deleted, user_ids, places, slugs, adds, untils, ttl_seconds
    USING p_range.applied_to, coalesce(last_user, p_range.last_user), p_at;
END
$$;

-- Notes the rows of a batch that were good when they were checked.
CREATE OR REPLACE FUNCTION note_import_refusals(p_range import_ranges, p_last_user bigint, p_at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        $sql$
        INSERT INTO import_errors (import_number, line, detail, text)
        SELECT $1, d.line,
               CASE WHEN s.deleted_at IS NOT NULL THEN 'the segment was deleted before the row was applied'
                    ELSE 'the term ended before the row was applied' END,
               import_line($1, d.line)
        FROM %I d
        JOIN segments s ON s.id = d.segment_id
        WHERE NOT d.is_bad AND d.user_id > $2 AND d.user_id <= $3 AND d.rows > 0
          AND (s.deleted_at IS NOT NULL OR d.until <= $4)
        ON CONFLICT DO NOTHING
        $sql$,
        'import_decisions_' || p_range.import_number
    )
    USING p_range.import_number, p_range.applied_to, p_last_user, p_at;
END
$$;

-- What these decisions would do now; changes nothing. What is due counts as done, as a change would settle it.
CREATE OR REPLACE FUNCTION foresee_changes(
    p_user_ids bigint[], p_places integer[], p_slugs text[], p_adds boolean[], p_untils timestamptz[],
    p_ttl_seconds bigint[]
) RETURNS text[]
    LANGUAGE sql STABLE
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
    SELECT array_agg(
        change_outcome(
            w.adds, coalesce(w.until, p.at + w.ttl_seconds * interval '1 second'),
            coalesce(m.included, bucket(p_user_ids[w.place], s.salt) < r.threshold, false), m.included IS NOT NULL,
            m.until, r.threshold
        )
        ORDER BY w.number
    )
    FROM present p
    CROSS JOIN unnest(p_places, p_slugs, p_adds, p_untils, p_ttl_seconds)
         WITH ORDINALITY AS w (place, slug, adds, until, ttl_seconds, number)
    -- OFFSET 0: as in change_memberships.
    LEFT JOIN LATERAL (
        SELECT s.id, s.salt FROM segments s WHERE s.slug = w.slug AND s.deleted_at IS NULL OFFSET 0
    ) s ON true
    LEFT JOIN LATERAL (
        SELECT r.threshold FROM rollouts r WHERE r.segment_id = s.id AND r.ended_at IS NULL OFFSET 0
    ) r ON true
    LEFT JOIN LATERAL (
        SELECT m.included, m.until
        FROM memberships m
        WHERE m.user_id = p_user_ids[w.place] AND m.segment_id = s.id AND m.ended_at IS NULL
          AND (m.until IS NULL OR m.until > p.at)
        OFFSET 0
    ) m ON true
$$;

-- A dry run's first differences, and more of them.
CREATE OR REPLACE FUNCTION more_differences(
    p_sample jsonb, p_user_ids bigint[], p_places integer[], p_slugs text[], p_outcomes text[]
) RETURNS jsonb
    LANGUAGE sql IMMUTABLE AS $$
    SELECT p_sample || coalesce(jsonb_agg(
        jsonb_build_object('user_id', d.user_id, 'segment', d.slug, 'outcome', d.outcome)
        ORDER BY d.user_id, d.slug COLLATE "C"
    ), '[]')
    FROM (
        SELECT p_user_ids[o.place] AS user_id, o.slug, o.outcome
        FROM unnest(p_places, p_slugs, p_outcomes) AS o (place, slug, outcome)
        WHERE o.outcome <> 'unchanged'
        ORDER BY o.place, o.slug COLLATE "C"
        LIMIT greatest(0, 100 - jsonb_array_length(p_sample))
    ) d
$$;

-- Applies about so many rows of a range of an import, together with its progress: both or neither. `is_over`: nobody is
-- left in the range, or the import cannot go on, for the reason in `refusal`; then end_import_if_over is to be called.
CREATE OR REPLACE FUNCTION apply_import_batch(
    p_number bigint, p_place integer, p_rows integer, OUT status text, OUT is_over boolean, OUT refusal text,
    OUT users bigint, OUT added bigint, OUT removed bigint, OUT updated bigint, OUT unchanged bigint
)
    LANGUAGE plpgsql AS $$
DECLARE
    i imports;
    range import_ranges;
    at timestamptz;
    batch record;
    outcomes text[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(catalog_lock());
    -- Until the batch is done, a caller who cancels the import waits.
    PERFORM pg_advisory_xact_lock_shared(import_end_lock(p_number));
    SELECT * INTO i FROM imports WHERE number = p_number;
    status := i.status;
    SELECT i.status IS DISTINCT FROM 'applying', 0, 0, 0, 0, 0 INTO is_over, users, added, removed, updated, unchanged;
    IF is_over THEN
        RETURN;
    END IF;
    -- A worker that was taken for dead may still be at it.
    SELECT * INTO range FROM import_ranges r WHERE r.import_number = p_number AND r.place = p_place FOR UPDATE;
    at := greatest(clock_instant(), (SELECT c.last_at FROM catalog c));
    batch := next_import_rows(range, p_rows, at);
    refusal := import_refusal(i);
    IF refusal IS NULL AND NOT i.skip_invalid AND batch.of_deleted IS NOT NULL THEN
        refusal := format('Line %s: the segment was deleted before the row was applied.', batch.of_deleted);
    END IF;
    IF refusal IS NOT NULL OR batch.last_user IS NULL THEN
        is_over := true;
        UPDATE import_ranges r
        SET is_over = batch.last_user IS NULL
        WHERE r.import_number = p_number AND r.place = p_place;
        RETURN;
    END IF;
    IF i.dry_run THEN
        outcomes := foresee_changes(
            batch.user_ids, batch.places, batch.slugs, batch.adds, batch.untils, batch.ttl_seconds
        );
    ELSIF batch.user_ids IS NOT NULL THEN
        SELECT c.outcomes
        INTO outcomes
        FROM change_memberships(
            batch.user_ids, ARRAY [i.ordered_by], ARRAY [i.reason], ARRAY [i.on_behalf_of],
            batch.places, batch.slugs, batch.adds, batch.untils, batch.ttl_seconds, true, false
        ) c;
    END IF;
    SELECT batch.users, count(*) FILTER (WHERE o.outcome = 'added'), count(*) FILTER (WHERE o.outcome = 'removed'),
           count(*) FILTER (WHERE o.outcome = 'updated'), count(*) FILTER (WHERE o.outcome = 'unchanged')
    INTO users, added, removed, updated, unchanged
    FROM unnest(outcomes) AS o (outcome);
    UPDATE import_ranges r
    SET applied_to = batch.last_user, users = r.users + apply_import_batch.users,
        added = r.added + apply_import_batch.added, removed = r.removed + apply_import_batch.removed,
        updated = r.updated + apply_import_batch.updated, unchanged = r.unchanged + apply_import_batch.unchanged
    WHERE r.import_number = p_number AND r.place = p_place;
    IF batch.refused > 0 THEN
        PERFORM note_import_refusals(range, batch.last_user, at);
    END IF;
    -- The row of the import comes last, because another range may wait for it.
    IF batch.refused > 0 OR i.dry_run THEN
        UPDATE imports m
        SET invalid_rows = m.invalid_rows + coalesce(batch.refused, 0)::bigint,
            sample = CASE WHEN m.dry_run THEN more_differences(
                m.sample, batch.user_ids, batch.places, batch.slugs, outcomes
            ) ELSE m.sample END
        WHERE m.number = p_number;
    END IF;
END
$$;

-- Ends an import that cannot go on, or whose ranges are all over; returns its status.
CREATE OR REPLACE FUNCTION end_import_if_over(p_number bigint, p_refusal text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    i imports;
    refusal text;
BEGIN
    PERFORM pg_advisory_xact_lock(import_end_lock(p_number));
    SELECT * INTO i FROM imports WHERE number = p_number;
    refusal := coalesce(p_refusal, import_refusal(i));
    IF i.status <> 'applying' OR (refusal IS NULL AND EXISTS (
        SELECT FROM import_ranges r WHERE r.import_number = p_number AND NOT r.is_over
    )) THEN
        RETURN i.status;
    END IF;
    PERFORM end_import(
        p_number, CASE WHEN refusal IS NULL THEN 'done' ELSE 'failed' END,
        refusal || format(' %s of %s users were changed before that.', (import_progress(p_number)).users, i.users)
    );
    RETURN (SELECT m.status FROM imports m WHERE m.number = p_number);
END
$$;

-- Stops an import for a caller. False: it had ended before. While it is checked, its tables are in use: the job drops
-- them.
CREATE OR REPLACE FUNCTION cancel_import(p_number bigint, p_actor text, p_on_behalf_of text) RETURNS boolean
    LANGUAGE plpgsql AS $$
DECLARE
    old imports;
BEGIN
    PERFORM pg_advisory_xact_lock(import_end_lock(p_number));
    SELECT * INTO old FROM imports WHERE number = p_number FOR UPDATE;
    IF NOT end_import(p_number, 'canceled', NULL, p_actor, p_on_behalf_of) THEN
        RETURN false;
    END IF;
    IF old.status <> 'checking' THEN
        PERFORM drop_import_tables(p_number);
    END IF;
    RETURN true;
END
$$;

-- Ends the imports whose receiving process has been silent for so long, and returns how many there were.
CREATE OR REPLACE FUNCTION fail_silent_imports(p_silent interval) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    lost bigint;
    ended bigint := 0;
BEGIN
    FOR lost IN
        SELECT i.number FROM imports i WHERE i.status = 'receiving' AND i.heard_at < clock_instant() - p_silent
    LOOP
        -- As the end of an import does: this lock first, and then its row.
        PERFORM pg_advisory_xact_lock(import_end_lock(lost));
        PERFORM
        FROM imports i
        WHERE i.number = lost AND i.status = 'receiving' AND i.heard_at < clock_instant() - p_silent
        FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            PERFORM end_import(lost, 'failed', 'The process that received the body has ended; send the body again.');
            PERFORM drop_import_tables(lost);
            ended := ended + 1;
        END IF;
    END LOOP;
    RETURN ended;
END
$$;
