"""README and docs keep their word: each example is run, each table is compared with the code."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from segmentd import cli
from segmentd.api.problems import HTTP_PROBLEMS, PROBLEMS
from segmentd.config import described
from segmentd.domain.memberships import Because
from tests.support.processes import serving
from tests.support.readme_examples import BLOCK, Play, blocks, examples, files

ROOT = Path(__file__).parents[2]
ENGLISH = [ROOT / "README.md", *sorted((ROOT / "docs/guide").glob("*.md"))]
RUSSIAN = [ROOT / "README.ru.md", *sorted((ROOT / "docs/ru/guide").glob("*.md"))]
# One story, on one service from the first page to the last.
STORY = [*ENGLISH, ROOT / "docs/errors.md", ROOT / "docs/operations.md"]
DECISIONS = sorted((ROOT / "docs/decisions").glob("0*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST_README = 250

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


def test_every_example_gives_the_answer_that_its_page_shows(database_url: str, tmp_path: Path) -> None:
    with serving("--database-url", database_url, cwd=tmp_path) as node, Play(node.ready().url) as play:
        for page in STORY:
            made = files(text(page))
            for example in examples(text(page)):
                play.files |= {name: content for line, name, content in made if line < example.line}
                promised, real, came = play.run(example)
                assert real == promised, (
                    f"{by_name(page)}, line {example.line}\n\n{example.command}\n\n"
                    f"the page promises:\n{example.answer}\n\nthe service answers:\n{came}\n"
                )
        assert play.real.times_in_their_order() == play.promised.times_in_their_order()

        with psycopg.connect(database_url) as connection:
            for page in STORY:
                for example in examples(text(page), begins="SELECT ", answers=("text",)):
                    found = connection.execute(example.command.encode()).fetchall()
                    assert ["|".join(map(str, row)) for row in found] == example.answer.splitlines()


def test_the_story_has_its_examples() -> None:
    assert sum(len(examples(text(page))) for page in STORY) > 50
    assert sum(len(examples(text(page), begins="SELECT ", answers=("text",))) for page in STORY) == 1


def test_every_page_is_there_in_both_languages() -> None:
    assert [page.name for page in RUSSIAN[1:]] == [page.name for page in ENGLISH[1:]]


@pytest.mark.parametrize(
    ("english", "russian"), [*zip(ENGLISH, RUSSIAN, strict=True)], ids=map(by_name, ENGLISH)
)
def test_both_languages_have_the_same_blocks(english: Path, russian: Path) -> None:
    in_english, in_russian = (
        [(block.language, block.text) for block in blocks(text(page)) if block.language != "mermaid"]
        for page in (english, russian)
    )
    assert in_russian == in_english


@pytest.mark.parametrize(
    ("english", "russian"), [*zip(ENGLISH, RUSSIAN, strict=True)], ids=map(by_name, ENGLISH)
)
def test_both_languages_have_the_same_build(english: Path, russian: Path) -> None:
    def build(page: Path) -> Iterator[str]:
        for line in prose(page).splitlines():
            if match := re.match(r"#+ |\| |- |\*\*(?=.+\?\*\*)", line):
                yield match[0]

    assert list(build(russian)) == list(build(english))


@pytest.mark.parametrize("readme", [ENGLISH[0], RUSSIAN[0]], ids=by_name)
def test_a_readme_is_a_door(readme: Path) -> None:
    assert len(text(readme).splitlines()) <= LONGEST_README


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


def test_the_pages_make_a_site_with_all_of_them_and_no_broken_link(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    plan = shutil.copy(ROOT / "zensical.toml", tmp_path)
    built = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    listed = set(re.findall(r'"([^"]+\.md)"', Path(plan).read_text("utf-8")))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("decisions/")} <= listed


def test_the_page_of_settings_is_what_make_configuration_writes() -> None:
    command = [sys.executable, str(ROOT / ".ci/configuration.py")]
    written = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert text(ROOT / "docs/configuration.md") == written
    assert all(description for _, _, _, description in described())


def test_every_kind_of_problem_is_in_the_table() -> None:
    kinds = {(problem.kind, str(problem.status)) for problem in (*PROBLEMS.values(), *HTTP_PROBLEMS.values())}
    page = ROOT / "docs/errors.md"
    shown = [(kind, status) for kind, status, _ in rows(page, 3, r"`[a-z-]+`") if status.isdecimal()]
    assert sorted(shown) == sorted(kinds)


def test_the_guide_has_every_reason_of_an_explanation_in_its_order() -> None:
    page = "4-why-and-since-when.md"
    english = rows(ROOT / "docs/guide" / page, 3, r"`[a-z-]+`")
    russian = rows(ROOT / "docs/ru/guide" / page, 3, r"`[a-z-]+`")

    assert english == [
        [each, "yes" if each.member else "no", each.sentence[0].lower() + each.sentence[1:].rstrip(".")]
        for each in Because
    ]
    assert [row[:2] for row in russian] == [[each, "да" if each.member else "нет"] for each in Because]


def test_every_command_is_on_the_page_for_operators() -> None:
    commands = {f"segmentd {name}" for name in cli.app if not name.startswith("-")}
    assert {row[0] for row in rows(ROOT / "docs/operations.md", 2, "`segmentd [a-z]+`")} == commands


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_what_a_page_calls_make_is_a_target(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text(page), re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", DECISIONS, ids=by_name)
def test_every_decision_has_its_number_and_its_line_in_the_index(page: Path) -> None:
    number = int(page.name.partition("-")[0])
    title = text(page).splitlines()[0].partition(". ")[2].partition("  ")[0]
    assert text(page).startswith(f"# {number}. ")
    assert f"| {number} | [{title}]({page.name}) |" in text(ROOT / "docs/decisions/README.md").splitlines()


def test_no_two_decisions_have_one_number() -> None:
    numbers = [page.name.partition("-")[0] for page in DECISIONS]
    assert len({*numbers}) == len(numbers)
