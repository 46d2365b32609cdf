"""The READMEs keep their word: each example is run, and each table is compared with the code it speaks of."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from segmentd import cli
from segmentd.api.problems import HTTP_PROBLEMS, PROBLEMS
from segmentd.config import described
from tests.readme_examples import BLOCK, Play, blocks, examples, serving

ROOT = Path(__file__).parent.parent
ENGLISH = ROOT / "README.md"
READMES = [ENGLISH, ROOT / "README.ru.md"]
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def by_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    return path.read_text("utf-8")


def prose(path: Path) -> str:
    return BLOCK.sub("", text(path))


def anchors(path: Path) -> set[str]:
    """What GitHub makes of the headings."""
    titles = (title.lower() for title in HEADING.findall(prose(path)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def rows(path: Path, columns: int, first: str) -> list[list[str]]:
    """The rows of so many columns with such a first cell, without back quotes; a dash is an empty cell."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text(path).splitlines()]
    return [
        ["" if cell == "–" else cell.replace("`", "") for cell in row]
        for row in cells
        if len(row) == columns and re.fullmatch(first, row[0])
    ]


@pytest.mark.parametrize("readme", READMES, ids=by_name)
def test_every_example_gives_the_answer_that_the_readme_shows(
    readme: Path, database_url: str, tmp_path: Path
) -> None:
    with serving(database_url, tmp_path) as address, Play(address) as play:
        for example in examples(text(readme)):
            promised, real, came = play.run(example)
            assert real == promised, (
                f"{by_name(readme)}, line {example.line}\n\n{example.command}\n\n"
                f"the README promises:\n{example.answer}\n\nthe service answers:\n{came}\n"
            )
        assert play.real.times_in_their_order() == play.told.times_in_their_order()

        with psycopg.connect(database_url) as connection:
            for example in examples(text(readme), begins="SELECT ", answers=("text",)):
                found = connection.execute(example.command.encode()).fetchall()
                assert ["|".join(map(str, row)) for row in found] == example.answer.splitlines()


def test_both_languages_have_the_same_blocks() -> None:
    english, russian = (
        [(block.language, block.text) for block in blocks(text(readme)) if block.language != "mermaid"]
        for readme in READMES
    )
    assert russian == english
    assert len(examples(text(ENGLISH))) > 50
    assert len(examples(text(ENGLISH), begins="SELECT ", answers=("text",))) == 1


def test_both_languages_have_the_same_build() -> None:
    def build(readme: Path) -> Iterator[str]:
        for line in prose(readme).splitlines():
            if match := re.match(r"#+ |\| |\*\*(?=.+\?\*\*)", line):
                yield match[0]

    english, russian = map(build, READMES)
    assert list(russian) == list(english)


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_local_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{by_name(page)} links to {link}"
        assert ROOT in target.parents, f"{by_name(page)} links out of the project: {link}"
        assert not anchor or anchor in anchors(target), f"{by_name(page)} links to {link}"


@pytest.mark.parametrize("readme", READMES, ids=by_name)
def test_the_table_of_settings_is_that_of_the_code(readme: Path) -> None:
    settings = [*described()]
    shown = rows(readme, 4, r"`--[a-z-]+`")

    assert [row[:3] for row in shown] == [[*setting[:3]] for setting in settings]
    assert all(row[3] for row in shown)
    if readme == ENGLISH:
        assert [row[3] for row, setting in zip(shown, settings, strict=True) if setting[3]] == [
            setting[3] for setting in settings if setting[3]
        ]


@pytest.mark.parametrize("readme", READMES, ids=by_name)
def test_every_kind_of_problem_is_in_the_table(readme: Path) -> None:
    kinds = {(problem.kind, str(problem.status)) for problem in (*PROBLEMS.values(), *HTTP_PROBLEMS.values())}
    shown = [(kind, status) for kind, status, _ in rows(readme, 3, r"`[a-z-]+`") if status.isdecimal()]
    assert sorted(shown) == sorted(kinds)


@pytest.mark.parametrize("readme", READMES, ids=by_name)
def test_every_command_is_in_the_readme(readme: Path) -> None:
    commands = {f"segmentd {name}" for name in cli.app if not name.startswith("-")}
    assert {row[0] for row in rows(readme, 2, "`segmentd [a-z]+`")} == commands


@pytest.mark.parametrize("readme", READMES, ids=by_name)
def test_what_the_readme_calls_make_is_a_target(readme: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text(readme), re.MULTILINE))
    assert {"run", "test", "check"} <= named <= targets


@pytest.mark.parametrize("page", DECISIONS, ids=by_name)
def test_every_decision_has_its_number_and_its_line_in_the_index(page: Path) -> None:
    number = int(page.name.partition("-")[0])
    title = text(page).splitlines()[0].partition(". ")[2].partition("  ")[0]
    assert text(page).startswith(f"# {number}. ")
    assert f"| {number} | [{title}]({page.name}) |" in text(ROOT / "docs/decisions/README.md").splitlines()


def test_no_two_decisions_have_one_number() -> None:
    numbers = [page.name.partition("-")[0] for page in DECISIONS]
    assert len({*numbers}) == len(numbers)
