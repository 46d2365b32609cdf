from pathlib import Path

from proof.mutations import ROOT, mutations


def test_every_seeded_fault_has_its_place_and_tests_near_it() -> None:
    found = mutations()

    assert len({mutation.what for mutation in found}) == len(found) >= 50
    for mutation in found:
        whole = Path(ROOT, mutation.file).read_text("utf-8")
        assert mutation.applied(whole) != whole
        assert all(Path(ROOT, test).exists() for test in mutation.tests)
