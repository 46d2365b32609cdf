"""The commands over HTTP, as `segmentd` and as `segctl`, against a real service."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segctl.values import seconds
from segmentd_client import Client
from tests.support.processes import PATIENCE_S, run

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def segmentd(service_url: str, tmp_path: Path) -> Command:
    """Runs a command; what is not one line of words is a test's failure."""

    def command(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        variables = {"SEGMENTD_SERVER": service_url, "XDG_CONFIG_HOME": str(tmp_path), **env}
        ended = run(*arguments, cwd=tmp_path, env=variables)
        assert "Traceback" not in ended.stderr
        return ended

    return command


def found(ended: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, object] = json.loads(ended.stdout)
    return answer


def test_segments_are_made_shown_changed_counted_and_deleted(segmentd: Command) -> None:
    assert found(segmentd("segments", "create", "CMD", "--percent", "12.5", "--salt", "-7"))["salt"] == "-7"
    assert found(segmentd("segments", "show", "CMD"))["percent"] == 12.5
    assert found(segmentd("segments", "preview", "CMD", "--percent", "none"))["percent_after"] is None
    assert found(segmentd("segments", "counts", "CMD"))["slug"] == "CMD"
    assert found(segmentd("segments", "set", "CMD", "--percent", "none", "--slug", "CMD2"))["percent"] is None
    listed = segmentd("segments", "list", "--output", "csv").stdout.splitlines()
    assert listed[0] == "slug,description,percent,created_at"
    assert [line for line in listed if line.startswith("CMD2,,,")]
    deleted = segmentd("segments", "delete", "CMD2")
    assert (deleted.returncode, deleted.stdout, deleted.stderr) == (0, "", "deleted CMD2\n")


def test_support_sees_a_user_on_one_screen(segmentd: Command, client: Client) -> None:
    client.segments.create("SCREEN")
    changed = found(segmentd("add", "8000", "SCREEN", "--ttl", "2d", "--reason", "ticket 4711"))
    assert changed["added"] == ["SCREEN"]

    screen = found(segmentd("user", "8000"))
    explained = found(segmentd("user", "8000", "--explain", "SCREEN"))
    table = segmentd("user", "8000", "--output", "table").stdout
    history = segmentd("user", "8000", "--history", "--output", "ndjson").stdout.splitlines()

    assert screen["user_id"] == 8000
    assert explained["because"] == "explicit"
    assert re.search(r"SCREEN +explicit +20\d\d-", table)
    assert "ticket 4711" in table
    assert [each["segment"] for each in map(json.loads, history) if each["reason"] == "ticket 4711"] == [
        "SCREEN"
    ]
    assert found(segmentd("remove", "8000", "SCREEN"))["removed"] == ["SCREEN"]
    assert found(segmentd("user", "8099"))["user"] is None


def test_a_list_is_tried_with_exit_code_3_then_imported_and_exported(
    segmentd: Command, client: Client, tmp_path: Path
) -> None:
    client.segments.create("LISTED")
    (tmp_path / "users.csv").write_text("user_id\n8101\n8102\n")

    tried = segmentd("import", "users.csv", "--segment", "LISTED", "--dry-run")
    imported = segmentd("import", "users.csv", "--segment", "LISTED", "--ttl", "30d", "--reason", "r")
    again = segmentd("import", "users.csv", "--segment", "LISTED", "--operation", "replace", "--dry-run")
    exported = segmentd("export", "LISTED", "-o", "out.csv")

    assert (tried.returncode, json.loads(tried.stdout)["added"]) == (3, 2)
    done = json.loads(imported.stdout)
    assert (imported.returncode, done["added"]) == (0, 2)
    assert imported.stderr == f"the import {done['id']} has begun\n"
    assert again.returncode == 3, "the term is another one"
    assert (exported.returncode, exported.stdout) == (0, "")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(";")[:2] for line in lines] == [["8101", "explicit"], ["8102", "explicit"]]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".out")) == []
    as_json = segmentd("export", "LISTED", "--output", "ndjson").stdout.splitlines()
    assert [json.loads(line)["user_id"] for line in as_json] == [8101, 8102]


def test_a_bad_list_fails_with_its_lines(segmentd: Command, client: Client, tmp_path: Path) -> None:
    client.segments.create("BADLY")
    (tmp_path / "users.csv").write_text("8201\nnobody;x\n")
    ended = segmentd("import", "users.csv", "--segment", "BADLY")
    assert ended.returncode == 1
    assert "\nline 2: " in ended.stderr
    assert "segmentd: the import is failed: " in ended.stderr


def test_a_month_s_report_goes_to_standard_output(segmentd: Command, client: Client) -> None:
    client.segments.create("MONTHLY")
    changed = client.users.change(8300, add=["MONTHLY"])
    month = f"{client.users.memberships(changed.user_id)[0].since:%Y-%m}"
    ended = segmentd("report", month, "--segment", "MONTHLY", "--header")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[1].startswith("8300;MONTHLY;add;")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("segments", "show", "NOWHERE"), 1, "No living segment has the slug NOWHERE."),
        (("segments", "set", "A"), 2, "nothing to set: give --slug, --description or --percent"),
        (("segments", "create", "A", "--percent", "x"), 2, "--percent: 'x' is not a percentage, such as"),
        (("add", "1"), 2, "name at least one segment"),
        (("add", "1", "A", "--ttl", "2 days"), 2, "--ttl: '2 days' is not a duration, such as 2d"),
        (("user", "1", "--at", "2026-11-01"), 2, "--at: '2026-11-01' is not a time with an offset"),
        (("user", "1", "--detail", "--history"), 2, "--detail, --explain and --history exclude"),
        (("import", "nothing.csv"), 2, "there is no file nothing.csv"),
        (("export", "A", "--output", "table"), 2, "an export is csv"),
        (("segments", "list", "--server", "http://127.0.0.1:9"), 1, "cannot reach http://127.0.0.1:9: "),
        (("segments", "list", "--server", "nowhere"), 2, "'nowhere' is no address of a service"),
        (("segments", "list", "--token-file", "nothing"), 2, "cannot read the token of nothing"),
        (("segments", "list", "--profile", "other"), 2, " has no profile other"),
    ],
)
def test_a_mistake_is_one_line_with_its_exit_code(
    segmentd: Command, arguments: tuple[str, ...], code: int, words: str
) -> None:
    ended = segmentd(*arguments)
    assert (ended.returncode, ended.stdout) == (code, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("segmentd: ")
    assert words in line


def test_a_profile_names_the_service_and_a_flag_outranks_it(
    segmentd: Command, service_url: str, tmp_path: Path
) -> None:
    (tmp_path / "segmentd").mkdir()
    (tmp_path / "segmentd/profiles.toml").write_text(
        f'[default]\nserver = "http://127.0.0.1:9"\n[real]\nserver = "{service_url}"\n'
    )
    ways = [(), ("--profile", "real"), ("--server", service_url)]
    codes = [segmentd("segments", "list", *way, SEGMENTD_SERVER="").returncode for way in ways]
    assert codes == [1, 0, 0]


@pytest.mark.parametrize("name", ["segmentd", "segctl"])
def test_the_help_is_on_one_screen_and_each_command_has_an_example(name: str, tmp_path: Path) -> None:
    script = [str(Path(sys.executable).with_name(name))]
    shown = run("--help", cwd=tmp_path, command=script).stdout
    assert len(shown.splitlines()) <= 40
    names = re.findall(r"^│ ([a-z]+) ", shown.partition("over HTTP")[2], re.MULTILINE)
    assert {"segments", "user", "add", "remove", "import", "export", "report", "apply", "follow"} <= {*names}


def test_every_command_s_help_has_an_example(tmp_path: Path) -> None:
    commands = [[each] for each in ("user", "add", "remove", "import", "export", "report", "apply", "follow")]
    of_segments = ("list", "show", "create", "set", "delete", "preview", "counts")
    for command in [*commands, *(["segments", each] for each in of_segments)]:
        shown = run(*command, "--help", cwd=tmp_path)
        assert shown.returncode == 0
        assert f"Example: {' '.join(command)}" in shown.stdout.replace("`", ""), command


def test_the_client_alone_has_the_same_commands(service_url: str, tmp_path: Path) -> None:
    script = [str(Path(sys.executable).with_name("segctl"))]
    ended = run("segments", "show", "NOWHERE", "--server", service_url, cwd=tmp_path, command=script)
    assert (ended.returncode, ended.stderr) == (1, "segctl: No living segment has the slug NOWHERE.\n")


def test_changes_are_printed_as_they_come(service_url: str, client: Client, tmp_path: Path) -> None:
    position = client.feed.page("now").next
    client.segments.create("PRINTED")
    script = [str(Path(sys.executable).with_name("segctl"))]
    arguments = ["follow", "--after", position, "--segment", "PRINTED", "--server", service_url]
    with subprocess.Popen(
        [*script, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as following:
        try:
            assert following.stdout
            first = json.loads(following.stdout.readline())
            client.users.change(8400, add=["PRINTED"])
            second = json.loads(following.stdout.readline())
        finally:
            following.terminate()
            following.wait(PATIENCE_S)
    assert (first["kind"], first["operation"]) == ("segment", "created")
    assert (second["kind"], second["user_id"]) == ("membership", 8400)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("2d", 172_800), ("1w", 604_800)])
def test_a_duration_is_read(text: str, expected: int) -> None:
    assert seconds("--ttl", text) == expected
