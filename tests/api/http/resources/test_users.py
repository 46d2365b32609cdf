import asyncio
from datetime import datetime

import psycopg

from tests.support.client import Api
from tests.support.clock import Clock

LARGEST_ID = 2**63 - 1


async def test_a_user_is_registered_under_the_id_that_the_client_brings(api: Api, clock: Clock) -> None:
    before = clock.now()

    answer = await api.post("users", json={"id": 1000, "name": "Ada Лавлейс 🧮"})

    assert answer.status_code == 201
    assert answer.headers["Location"] == "/api/v1/users/1000"
    user = answer.json()
    assert {**user, "registered_at": None} == {"id": 1000, "name": "Ada Лавлейс 🧮", "registered_at": None}
    assert before <= datetime.fromisoformat(user["registered_at"]) <= clock.now()
    assert (await api.get(answer.headers["Location"])).json() == user


async def test_the_smallest_and_the_largest_id_are_users_like_all_others(api: Api) -> None:
    await api.create("ALL", percent=100)
    for user_id in (1, LARGEST_ID):
        assert (await api.post("users", json={"id": user_id})).json()["id"] == user_id
        assert (await api.add(user_id, "ALL"))["segments"] == ["ALL"]

    assert await api.walk("users", "users", 1) == [
        (await api.get(f"users/{user_id}")).json() for user_id in (1, LARGEST_ID)
    ]
    assert await api.walk("segments/ALL/users", "user_ids", 1) == [1, LARGEST_ID]


async def test_a_user_needs_neither_an_id_nor_a_name(api: Api) -> None:
    for body in ({}, {"id": None, "name": None}):
        user = (await api.post("users", json=body)).json()

        assert user["id"] >= 1
        assert user["name"] is None
        assert (await api.get(f"users/{user['id']}")).json() == user


async def test_a_registered_id_is_refused_to_the_next_one(api: Api) -> None:
    await api.post("users", json={"id": 1000, "name": "first"})

    answer = await api.post("users", json={"id": 1000, "name": "second"})

    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/user-exists"
    assert answer.json()["user_id"] == 1000
    assert (await api.get("users/1000")).json()["name"] == "first"


async def test_assigned_ids_never_meet_the_ids_that_clients_brought(api: Api) -> None:
    brought = {1, 2, 3, 5, 8, 9, 10, 11, 12}
    for user_id in brought:
        await api.post("users", json={"id": user_id})

    assigned = [(await api.post("users", json={})).json()["id"] for _ in range(8)]

    assert len({*assigned} | brought) == len(assigned) + len(brought)


async def test_an_assigned_id_is_never_that_of_a_deleted_user(api: Api) -> None:
    first = (await api.post("users", json={})).json()["id"]
    brought = first + 1
    await api.post("users", json={"id": brought})
    for user_id in (first, brought):
        assert (await api.delete(f"users/{user_id}")).status_code == 204

    assigned = {(await api.post("users", json={})).json()["id"] for _ in range(3)}

    assert not assigned & {first, brought}


async def test_many_registrations_at_once_get_an_id_each_also_among_brought_ids(
    api: Api, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT register_user(id, NULL) FROM generate_series(1, 60) AS id")

    answers = await asyncio.gather(*(api.post("users", json={}) for _ in range(40)))

    assert {answer.status_code for answer in answers} == {201}
    assigned = {answer.json()["id"] for answer in answers}
    assert len(assigned) == 40
    assert min(assigned) > 60


async def test_no_choice_of_ids_drives_the_assigned_ids_far_ahead(api: Api) -> None:
    first = (await api.post("users", json={})).json()["id"]
    for step in range(62):
        await api.post("users", json={"id": first + 2**step})

    assigned = [(await api.post("users", json={})).json()["id"] for _ in range(40)]

    assert len({*assigned}) == 40
    assert max(assigned) <= first + 40 + 62


async def test_a_long_run_of_brought_ids_is_passed_over_once(api: Api, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("""
            INSERT INTO users (id, registered_at, last_at)
            SELECT id, '2025-01-01Z', '2025-01-01Z' FROM generate_series(1, 25000) AS id WHERE id <> 24000
        """)

    assert [(await api.post("users", json={})).json()["id"] for _ in range(3)] == [24000, 25001, 25002]


async def test_an_id_that_a_client_takes_at_the_very_moment_is_not_given_out(
    api: Api, database_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as client:
        await client.execute("SELECT register_user(1, NULL)")
        waiting = asyncio.create_task(api.post("users", json={}))
        await _until_someone_waits_for_a_lock(database_url)
        await client.commit()

    answer = await waiting

    assert answer.status_code == 201
    assert answer.json()["id"] != 1


async def test_of_many_who_register_one_id_at_once_one_succeeds(api: Api) -> None:
    answers = await asyncio.gather(*(api.post("users", json={"id": 7}) for _ in range(10)))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9


async def test_the_first_change_of_segments_registers_the_user(api: Api) -> None:
    await api.create("A")

    await api.add(1000, "A")

    user = (await api.get("users/1000")).json()
    assert (user["id"], user["name"]) == (1000, None)
    assert (await api.post("users", json={"id": 1000})).status_code == 409


async def test_a_change_that_is_refused_registers_nobody(api: Api) -> None:
    assert (await api.post("users/1000/segments", json={"add": ["NOWHERE"]})).status_code == 404

    assert (await api.get("users/1000")).status_code == 404


async def test_reading_registers_nobody(api: Api) -> None:
    await api.create("A", percent=100)
    await api.segments(1000)
    await api.segments(1000, detail="true")
    await api.explain(1000, "A")
    await api.history(1000)
    await api.post("lookup", json={"user_ids": [1000]})

    assert (await api.get("users")).json() == {"users": [], "next_cursor": None}


async def test_users_are_listed_by_id_as_numbers(api: Api) -> None:
    for user_id in (10, 9, 1, 100):
        await api.post("users", json={"id": user_id})

    assert [user["id"] for user in await api.walk("users", "users", 3)] == [1, 9, 10, 100]


async def test_a_deleted_user_is_unknown(api: Api) -> None:
    await api.create("PINNED")
    await api.create("EVERYBODY", percent=100)
    await api.create("EXCLUDED", percent=100)
    await api.post("users", json={"id": 1000, "name": "Ada"})
    await api.change(1000, add=["PINNED"], remove=["EXCLUDED"])

    answer = await api.delete("users/1000")

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await api.get("users/1000")).json()["type"] == "/problems/user-not-found"
    assert (await api.delete("users/1000")).json()["type"] == "/problems/user-not-found"
    assert await api.walk("users", "users", 10) == []
    assert await api.segments(1000) == ["EVERYBODY", "EXCLUDED"]
    assert await api.segments(1000) == await api.segments(2**40 + 1)
    for slug in ("PINNED", "EVERYBODY", "EXCLUDED"):
        assert await api.walk(f"segments/{slug}/users", "user_ids", 10) == []
    assert (await api.explain(1000, "PINNED"))["because"] == "never-added"
    assert (await api.explain(1000, "EXCLUDED"))["because"] == "rollout"


async def test_a_deletion_closes_the_history_and_keeps_it(api: Api) -> None:
    await api.create("PINNED")
    await api.create("EVERYBODY", percent=100)
    await api.create("EXCLUDED", percent=100)
    await api.post("users", json={"id": 1000})
    await api.change(1000, add=["PINNED"], remove=["EXCLUDED"])

    await api.delete("users/1000")

    events = await api.history(1000)
    assert [(event["segment"], event["operation"], event["source"], event["cause"]) for event in events] == [
        ("EVERYBODY", "add", "rollout", "rollout"),
        ("EXCLUDED", "add", "rollout", "rollout"),
        ("EXCLUDED", "remove", "explicit", "request"),
        ("PINNED", "add", "explicit", "request"),
        ("EVERYBODY", "remove", "rollout", "user-deleted"),
        ("PINNED", "remove", "explicit", "user-deleted"),
    ]
    assert events[4]["at"] == events[5]["at"]


async def test_an_id_can_be_registered_again_and_begins_with_nothing_of_the_earlier_life(api: Api) -> None:
    await api.create("PINNED")
    await api.create("EXCLUDED", percent=100)
    await api.post("users", json={"id": 1000, "name": "Ada"})
    await api.change(1000, add=["PINNED"], remove=["EXCLUDED"])
    await api.delete("users/1000")

    answer = await api.post("users", json={"id": 1000})

    assert answer.status_code == 201
    assert answer.json()["name"] is None
    assert await api.segments(1000) == ["EXCLUDED"]
    assert (await api.explain(1000, "PINNED"))["because"] == "never-added"
    assert await api.walk("segments/EXCLUDED/users", "user_ids", 10) == [1000]
    operations = [event["operation"] for event in await api.history(1000) if event["segment"] == "EXCLUDED"]
    assert operations == ["add", "remove", "add"]


async def test_a_change_of_segments_revives_a_deleted_user(api: Api) -> None:
    await api.create("A")
    await api.create("B")
    await api.post("users", json={"id": 1000, "name": "Ada"})
    await api.add(1000, "A")
    await api.delete("users/1000")

    assert (await api.add(1000, "B"))["segments"] == ["B"]

    user = await api.get("users/1000")
    assert (user.status_code, user.json()["name"]) == (200, None)
    assert [(event["segment"], event["operation"]) for event in await api.history(1000)] == [
        ("A", "add"),
        ("A", "remove"),
        ("B", "add"),
    ]


async def test_erasing_a_user_takes_the_history_too(api: Api) -> None:
    await api.create("PINNED")
    await api.create("EVERYBODY", percent=100)
    await api.add(1000, "PINNED")
    await api.add(2000, "PINNED")

    answer = await api.delete("users/1000?erase=true")

    assert (answer.status_code, answer.content) == (204, b"")
    assert await api.history(1000) == []
    assert await api.segments(1000) == ["EVERYBODY"]
    assert (await api.get("users/1000")).status_code == 404
    assert len(await api.history(2000)) == 2


async def test_a_deleted_user_can_still_be_erased(api: Api) -> None:
    await api.create("A")
    await api.add(1000, "A")
    await api.delete("users/1000")

    assert (await api.delete("users/1000?erase=true")).status_code == 204

    assert await api.history(1000) == []
    assert (await api.delete("users/1000?erase=true")).status_code == 404


async def _until_someone_waits_for_a_lock(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while not (await connection.execute(query)).rowcount:
            pass
