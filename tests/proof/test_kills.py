from pathlib import Path

from proof.kills import Plan, kill_cycles


async def test_kills_under_load_lose_no_acknowledged_change_and_make_none_by_mistake(tmp_path: Path) -> None:
    plan = Plan(2, seed=2, kinds=("an HTTP worker", "everything"), waits_for_imports=False)

    report = await kill_cycles(plan, tmp_path, print, as_shipped=False)

    assert report.differences == []
    assert report.acknowledged > 6 * plan.writers
