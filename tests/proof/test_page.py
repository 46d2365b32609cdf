from pathlib import Path

import pytest

from proof.__main__ import PROOFS, main
from proof.faults import FAULTS
from proof.findings import FINDINGS
from proof.results import PAGE, kept, page
from proof.scenarios import RESTORED, SCENARIOS

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_latest_results_say() -> None:
    assert PAGE.read_text() == page(kept())


def test_what_must_hold_is_written_for_each_fault_and_whatever_shows_it_is_there() -> None:
    assert {*SCENARIOS, RESTORED} <= FAULTS.keys()
    places = {place for fault in FAULTS.values() for place in fault.shown_by}
    places |= {found.test for found in FINDINGS}
    assert not [place for place in places - PROOFS.keys() if not (ROOT / "tests" / place).is_file()]


@pytest.mark.parametrize("name", PROOFS)
def test_each_proof_says_what_it_promises_and_how_long_it_takes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])

    said = " ".join(capsys.readouterr().out.split())
    assert "--minutes" in said
    assert PROOFS[name].promise[:40] in said
