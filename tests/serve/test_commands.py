import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from segmentd import __version__
from tests.support.postgres import with_database
from tests.support.processes import MODULE, failure, run

SCRIPT = [str(Path(sys.executable).with_name("segmentd"))]


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


# Failures: exit code 1 and one line


def test_a_busy_port_is_an_error(empty_database_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arguments = ("serve", "--port", str(port), "--database-url", empty_database_url)
        line = failure(run(*arguments, cwd=tmp_path))
    assert line == f"cannot listen on 127.0.0.1, port {port}: Address already in use"


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_a_foreign_address_is_an_error(tmp_path: Path, host: str) -> None:
    assert f"cannot listen on {host}, port 0: " in failure(
        run("serve", "--host", host, "--port", "0", cwd=tmp_path)
    )


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("migrate",)])
def test_a_wrong_password_is_reported_and_not_shown(
    database_url: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    line = failure(run(*command, "--database-url", with_password(database_url, "a-secret"), cwd=tmp_path))
    assert "password authentication failed" in line
    assert "a-secret" not in line


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",), ("migrate",)])
def test_a_missing_database_is_reported(database_url: str, tmp_path: Path, command: tuple[str, ...]) -> None:
    line = failure(run(*command, "--database-url", with_database(database_url, "nowhere"), cwd=tmp_path))
    assert line.startswith("cannot use the database: ")
    assert line.endswith('database "nowhere" does not exist')


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("migrate",)])
def test_a_malformed_url_is_an_error_that_does_not_show_it(tmp_path: Path, command: tuple[str, ...]) -> None:
    line = failure(run(*command, "--database-url", "postgres//me:a-secret@host/db", cwd=tmp_path))
    assert line.startswith("the database URL is malformed")
    assert "a-secret" not in line


# A password with a character that has to be written otherwise in a URL.
RAW = ["a-sec@ret", "@a-secret", "a-sec/ret", "4711/secret", "a-sec%zzret", "a-sec ret", "a-sec@ret:5432"]


@pytest.mark.parametrize("command", ["migrate", "check"])
def test_a_password_that_splits_the_url_is_shown_in_no_part(tmp_path: Path, command: str) -> None:
    for password in RAW:
        url = f"postgresql://me:{password}@127.0.0.1:1/db"
        ended = run(command, "--database-url", url, cwd=tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.startswith("segmentd: the database URL is malformed; it looks like ")
        for part in re.split("[@/%: ]", password):
            assert len(part) < 2 or part not in ended.stdout + ended.stderr.replace("5432", ""), password


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "postgresql://me:a-secret@host/db"],
        ["postgresql://me:a-secret@host/db"],
        ["serve", "--port", "postgresql://me:a-secret@host/db"],
        ["serve", "--database-ur", "postgresql://me:a-secret@host/db"],
        ["serve", "--database-ur=postgresql://me:a-secret@host/db"],
        ["serve", "host=host", "password=a-sec", "secret"],
        ["serve", "--workers", "host=host password=a-secret"],
        ["serve", "--config", "postgresql://me:a-secret@host/db"],
    ],
)
def test_a_url_in_the_wrong_place_is_not_shown_either(tmp_path: Path, arguments: list[str]) -> None:
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert "sec" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("migrate",)])
@pytest.mark.parametrize("place", ["a file", "a file/below", "/proc/none"])
def test_an_unusable_data_directory_is_an_error(tmp_path: Path, command: tuple[str, ...], place: str) -> None:
    (tmp_path / "a file").write_text("")
    line = failure(run(*command, "--data-dir", tmp_path / place, cwd=tmp_path))
    assert str(tmp_path / place) in line


def test_an_unusable_data_directory_for_reports_is_reported_too(
    empty_database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("")
    arguments = (
        "serve",
        "--port",
        "0",
        "--database-url",
        empty_database_url,
        "--data-dir",
        tmp_path / "a file",
    )
    line = failure(run(*arguments, cwd=tmp_path, env={"SEGMENTD_LOG_LEVEL": "error"}))
    assert str(tmp_path / "a file") in line


# Errors of use: exit code 2 and one line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--bogus", "1"], "--bogus"),
        (["serve", "--port", "abc"], "--port"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--port", "-1"], "--port"),
        (["serve", "--port"], "--port"),
        (["serve", "--workers", "1.5"], "--workers"),
        (["serve", "stray"], "stray"),
        (["frobnicate"], "frobnicate"),
        (["token", "create", "--role", "reader", "--name", "segmentd"], "'segmentd' is a name that this"),
        (["token", "create", "--role", "reader", "--name", "n" * 129], "is not a name of 1 to 128"),
        (["token", "create", "--role", "reader", "--name", "n", "--expires", "soon"], "--expires"),
        (["key", "rotate", "--keep-days", "3651"], "--keep-days"),
        (["serve", "--config", "none.toml"], "none.toml"),
        (["serve", "--config", "bad.toml"], "bad.toml"),
        (["serve", "--config", "unknown.toml"], "colour"),
        (["check", "--config", "wrong.toml"], "wrong.toml"),
    ],
)
def test_an_error_of_use_leaves_with_2_and_one_line(tmp_path: Path, arguments: list[str], named: str) -> None:
    (tmp_path / "bad.toml").write_text("port = = 1\n")
    (tmp_path / "unknown.toml").write_text('colour = "red"\n')
    (tmp_path / "wrong.toml").write_text('port = "many"\n')

    ended = run(*arguments, cwd=tmp_path)

    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("segmentd: ")
    assert named in line


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    ended = run("check", cwd=tmp_path, env={"SEGMENTD_PORT": "many"})
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert "SEGMENTD_PORT" in line


# What was given, or found, is shown without what a terminal obeys


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["check"], {"SEGMENTD_HOST": "a\x1b[2Jb\x9bc\u202e"}),
        (["check", "--cors-origins", "\x1b]0;owned\x07"], {}),
        (["serve", "--port", "\x1b[31m7"], {}),
        (["serve", "--\x1b[31m"], {}),
        (["check", "--config", "no\x1b[31mfile.toml"], {}),
        (["serve", "--port", "0", "--data-dir", "a file/\x1b[31m"], {}),
        (["check", "--database-url", "postgresql://u@127.0.0.1:1/a%1B%5B31m"], {}),
    ],
)
def test_a_command_shows_no_control_characters(
    tmp_path: Path, arguments: list[str], variables: dict[str, str]
) -> None:
    (tmp_path / "a file").write_text("")

    ended = run(*arguments, cwd=tmp_path, env=variables)

    for line in (ended.stdout + ended.stderr).split("\n"):
        assert line.isprintable(), line


def test_an_error_of_postgresql_is_shown_without_control_characters(
    database_url: str, tmp_path: Path
) -> None:
    nowhere = with_database(database_url, "a%1B%5B31m%7F%C2%9B")
    line = failure(run("migrate", "--database-url", nowhere, cwd=tmp_path))
    assert line.isprintable()
    assert r"a\x1b[31m\x7f\x9b" in line


@pytest.mark.parametrize("name", ["[/red]", "[bold]x[/bold]", ":smile:", "[link=http://a]b", "\\"])
def test_a_token_s_name_is_listed_as_it_is(database_url: str, tmp_path: Path, name: str) -> None:
    made = run(
        "token", "create", "--role", "reader", "--name", name, "--database-url", database_url, cwd=tmp_path
    )
    assert made.returncode == 0, made
    listed = run("token", "list", "--database-url", database_url, cwd=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.splitlines()[1].startswith(f"{name} ")


# Help and version


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["python -m segmentd", "segmentd"])
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--version"], [__version__]),
        (["--help"], ["serve", "migrate", "check", "--version"]),
        (
            ["serve", "--help"],
            ["--host", "--port", "--workers", "--data-dir", "--database-url"],
        ),
    ],
)
def test_the_module_and_the_command_say_the_same(
    tmp_path: Path, command: list[str], arguments: list[str], shown: list[str]
) -> None:
    ended = run(*arguments, cwd=tmp_path, command=command)
    assert (ended.returncode, ended.stderr) == (0, "")
    for word in shown:
        assert word in ended.stdout
    assert ended.stdout == run(*arguments, cwd=tmp_path).stdout


# Migrate and check


def test_migrate_says_what_it_did(empty_database_url: str, tmp_path: Path) -> None:
    lacking = run("check", "--database-url", empty_database_url, cwd=tmp_path)
    first = run("migrate", "--database-url", empty_database_url, cwd=tmp_path)
    second = run("migrate", "--database-url", empty_database_url, cwd=tmp_path)
    good = run("check", "--database-url", empty_database_url, cwd=tmp_path)

    assert lacking.returncode == 1
    [line] = lacking.stderr.splitlines()
    assert line.startswith("segmentd: the schema lacks 0001_tables.sql, ")
    assert line.endswith(": run `segmentd migrate`")
    for ended in (first, second, good):
        assert (ended.returncode, ended.stderr) == (0, "")
    assert first.stdout.endswith(" migrations applied\n")
    assert int(first.stdout.split()[0]) > 0
    assert second.stdout == "the schema is up to date\n"
    assert good.stdout.splitlines()[-1] == "schema: up to date"


def test_check_shows_where_each_value_comes_from_and_no_password(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "segmentd.toml").write_text('host = "::1"\nport = 1\nworkers = 3\n')
    variables = {
        "SEGMENTD_CONFIG": "segmentd.toml",
        "SEGMENTD_PORT": "2",
        "SEGMENTD_DATABASE_URL": database_url,
        "DATABASE_URL": "postgresql://nowhere/none",
        "SEGMENTD_REPORT_KEY": "k" * 40,
    }

    ended = run("check", "--data-dir", "elsewhere", cwd=tmp_path, env=variables)

    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [line.strip() for line in ended.stdout.splitlines()]
    assert "host = ::1  (segmentd.toml)" in lines
    assert "workers = 3  (segmentd.toml)" in lines
    assert "port = 2  (SEGMENTD_PORT)" in lines
    assert "data_dir = elsewhere  (--data-dir)" in lines
    assert "rate_limit = 0.0  (default)" in lines
    [shown] = [line for line in lines if line.startswith("database_url = ")]
    assert shown.endswith("  (SEGMENTD_DATABASE_URL)")
    assert ":***@" in shown
    password = urlsplit(database_url).password
    assert password
    assert password not in ended.stdout
    assert "k" * 40 not in ended.stdout
    assert not (tmp_path / "elsewhere").exists()


def test_check_of_nothing_yet_touches_nothing(tmp_path: Path) -> None:
    ended: subprocess.CompletedProcess[str] = run("check", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "database: embedded, made in data by the first `segmentd serve`"
    assert [*tmp_path.iterdir()] == []


def test_check_tells_an_unreachable_database_after_the_configuration(tmp_path: Path) -> None:
    ended = run("check", "--database-url", "postgresql://me:a-secret@127.0.0.1:1/db", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout.startswith("configuration:\n")
    [line] = ended.stderr.splitlines()
    assert line.startswith("segmentd: cannot use the database: ")
    assert "a-secret" not in ended.stdout + ended.stderr


# What a start waits for


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        (
            "segmentd.cli.commands",
            {"asyncio", "litestar", "lmdb", "numpy", "obstore", "psycopg", "structlog"},
        ),
        ("segmentd.serve.run", {"cryptography", "grpc", "litestar", "lmdb", "numpy", "obstore"}),
        ("segmentd.serve.node_worker", {"cryptography", "grpc", "litestar", "uvicorn"}),
        # After its import no process can be forked any more.
        ("segmentd.serve.http_worker", {"grpc"}),
    ],
)
def test_a_process_loads_no_library_that_it_has_no_use_for(module: str, needless: set[str]) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert needless & {*loaded.stdout.split()} == set()
