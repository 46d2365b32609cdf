"""The segments and users that the stories are about, with a month of history before they begin."""

from typing import Final, LiteralString

import psycopg

USERS: Final = 2_000
BUSY: Final = 1800
"""A user with as long a page as there may be: many segments with long slugs, and hundreds of changes."""

SUPPORTED: Final = 1000
SUPPORTED_TOO: Final = 900
"""The users whose feature has vanished, one with script and one without."""

VOICE: Final = "AVITO_VOICE_MESSAGES"
VAS: Final = "AVITO_PERFORMANCE_VAS"
DISCOUNT: Final = "AVITO_DISCOUNT_50"

_FILL: Final[LiteralString] = """
    SELECT ensure_event_partition(now() - n * interval '1 month') FROM generate_series(0, 2) n;

    INSERT INTO users (id, name, registered_at, last_at)
    SELECT n, CASE n WHEN 1000 THEN 'Anna' END, now() - interval '40 days', now()
    FROM generate_series(1, %(users)s) n;
    INSERT INTO registrations (user_id, registered_at) SELECT id, registered_at FROM users;

    INSERT INTO segments (slug, description, salt, created_at)
    VALUES ('AVITO_VOICE_MESSAGES', 'Voice messages in the messenger', 12, now() - interval '35 days'),
           ('AVITO_PERFORMANCE_VAS', 'Promotion that is paid by the result', 21, now() - interval '30 days'),
           ('AVITO_DISCOUNT_50',
            'Promotion at half the price, <b>for a week</b>', 33, now() - interval '20 days');
    INSERT INTO segment_events (segment_id, at, operation, slug, actor)
    SELECT id, created_at, 'created', slug, 'experiments' FROM segments;

    INSERT INTO rollouts (segment_id, percent, started_at)
    SELECT id, 30, now() - interval '25 days' FROM segments WHERE slug = 'AVITO_PERFORMANCE_VAS';
    INSERT INTO segment_events (segment_id, at, operation, slug, percent_after, actor)
    SELECT segment_id, started_at, 'percent', 'AVITO_PERFORMANCE_VAS', percent, 'experiments' FROM rollouts;

    -- Ins and outs of the busy user, each an hour apart, in 40 segments.
    INSERT INTO segments (slug, description, salt, created_at)
    SELECT 'BUSY_' || repeat('X', 40) || n, repeat('Описание ', 20), n, now() - interval '35 days'
    FROM generate_series(1, 40) n;
    INSERT INTO memberships (user_id, segment_id, included, since, until, ended_at)
    SELECT 1800, s.id, true, at, NULL, CASE WHEN n > 40 THEN at + interval '30 minutes' END
    FROM (SELECT n, now() - n * interval '1 hour' AS at FROM generate_series(1, 640) n) e
    JOIN segments s ON s.salt = 1 + n %% 40 AND s.slug LIKE 'BUSY%%';

    -- One who is in, one whose term has ended, and many others who were added day by day.
    INSERT INTO memberships (user_id, segment_id, included, since, until, ended_at)
    SELECT u, id, true, now() - interval '22 days', NULL, NULL::timestamptz
    FROM segments, (VALUES (900), (1000)) supported (u) WHERE slug = 'AVITO_VOICE_MESSAGES'
    UNION ALL
    SELECT u, id, true, now() - interval '12 days', now() - interval '5 days', now() - interval '5 days'
    FROM segments, (VALUES (900), (1000)) supported (u) WHERE slug = 'AVITO_DISCOUNT_50'
    UNION ALL
    SELECT 1000 + n, id, true, now() - (1 + n %% 30) * interval '1 day', NULL, NULL
    FROM segments, generate_series(1, 600) n WHERE slug = 'AVITO_VOICE_MESSAGES';
    INSERT INTO membership_events
           (user_id, segment_id, at, operation, effective, until, cause, actor, reason, on_behalf_of)
    SELECT user_id, segment_id, since, 'add'::event_operation, true, until, 'request'::event_cause, 'support',
           CASE WHEN user_id IN (900, 1000) THEN 'ticket 4711' WHEN user_id = 1800 THEN repeat('Обещано ', 12)
           END, 'Boris'
    FROM memberships
    UNION ALL
    SELECT user_id, segment_id, ended_at, 'remove', true, NULL,
           (CASE WHEN until IS NULL THEN 'request' ELSE 'expiry' END)::event_cause, 'segmentd', NULL, NULL
    FROM memberships WHERE ended_at IS NOT NULL;
"""


def fill(url: str) -> None:
    """Into a database that was migrated and that no node uses yet."""
    with psycopg.connect(url, autocommit=True) as connection, psycopg.ClientCursor(connection) as cursor:
        cursor.execute(_FILL, {"users": USERS})
