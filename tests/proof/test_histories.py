from pathlib import Path

from proof.histories import Plan, histories


async def test_what_concurrent_clients_of_two_nodes_see_by_every_door_keeps_all_promises(
    database_url: str, tmp_path: Path
) -> None:
    plan = Plan(600, disturbed=False)

    measured = await histories(plan, database_url, tmp_path, print, as_shipped=False)

    assert measured.violations == []
