"""Access control of a running service: who is admitted, tokens on the command line, keys of links."""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from segmentd.auth.tokens import new_secret
from tests.support.issuer import CLAIMS, issuer
from tests.support.processes import PATIENCE_S, TLS, Serving, eventually, failure, run, serving
from tests.support.rows import Rows, rows_of
from tests.support.tokens import bearer

SECRET: Final = r"segmentd_[A-Za-z0-9_-]{43}"
EVERYBODY: Final = ("--host", "0.0.0.0")  # noqa: S104 - that is what is tested


@pytest.fixture
def url(database_url: str) -> str:
    """This test's database, with the schema."""
    return database_url


@pytest.fixture
def rows(url: str) -> Iterator[Rows]:
    with rows_of(url) as rows:
        yield rows


def token(url: str, folder: Path, *arguments: str) -> str:
    """What `segmentd token` prints."""
    ended = run("token", *arguments, "--database-url", url, cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout


def created(url: str, folder: Path, role: str, name: str, *arguments: str) -> str:
    """The secret of a new token."""
    printed = token(url, folder, "create", "--role", role, "--name", name, *arguments)
    secret = printed.removesuffix("\n")
    assert secret.startswith("segmentd_")
    assert len(secret) == len("segmentd_") + 43
    return secret


def status(service: Serving, secret: str | None = None, path: str = "segments") -> int:
    """How a request on a connection of its own, so by any of the workers, is answered."""
    url = f"{service.url.replace('0.0.0.0', '127.0.0.1')}/api/v1/{path}"  # noqa: S104
    headers = bearer(secret) if secret else {}
    return httpx.get(url, headers=headers, timeout=PATIENCE_S, verify=TLS).status_code


def is_always(service: Serving, secret: str | None, expected: int, path: str = "segments") -> bool:
    """Whether twenty connections, so all workers, have the same answer."""
    return all(status(service, secret, path) == expected for _ in range(20))


# Who is admitted


def test_others_are_not_served_while_there_is_no_access_control(url: str, tmp_path: Path) -> None:
    line = failure(
        run("serve", "--port", "0", *EVERYBODY, "--workers", "1", "--database-url", url, cwd=tmp_path)
    )

    assert line.startswith("everybody who reaches 0.0.0.0 could do everything, ")
    for way in ("segmentd token create", "JWT", "127.0.0.1", "--insecure-open"):
        assert way in line


def test_others_are_served_without_access_control_where_that_is_allowed(url: str, tmp_path: Path) -> None:
    arguments = ("--database-url", url, *EVERYBODY, "--insecure-open")
    with serving(*arguments, cwd=tmp_path) as service:
        service.ready()
        assert status(service) == 200
        assert service.stop() == (0, "")


def test_others_are_served_once_there_is_a_token(url: str, tmp_path: Path) -> None:
    secret = created(url, tmp_path, "reader", "one")
    with serving("--database-url", url, *EVERYBODY, cwd=tmp_path) as service:
        service.ready()
        assert [status(service), status(service, "bad"), status(service, secret)] == [401, 401, 200]
        assert service.stop() == (0, "")


def test_others_are_served_where_jwts_are_verified(url: str, tmp_path: Path) -> None:
    env = {"SEGMENTD_JWT_KEY": issuer("HS256").key}
    with serving("--database-url", url, *EVERYBODY, cwd=tmp_path, env=env) as service:
        service.ready()
        good = issuer("HS256").token({**CLAIMS, "exp": 4_000_000_000})
        assert [status(service), status(service, "a.b.c"), status(service, good)] == [401, 401, 200]
        assert service.stop() == (0, "")


# Tokens


def test_a_token_works_at_every_worker_at_once_and_no_longer_once_it_is_revoked(
    url: str, rows: Rows, tmp_path: Path
) -> None:
    with serving("--database-url", url, cwd=tmp_path, workers=2) as service:
        service.ready()
        assert is_always(service, None, 200)

        editor = created(url, tmp_path, "editor", "importer", "--expires", "90d")
        eventually(lambda: is_always(service, None, 401))
        assert is_always(service, editor, 200)
        with service.client() as client:
            client.headers.update(bearer(editor))
            assert client.post("segments", json={"slug": "A"}).status_code == 201
            assert client.post("users/1000/segments", json={"add": ["A"]}).status_code == 200
            [event] = client.get("users/1000/history").json()["events"]
            assert event["actor"] == "importer"
            assert client.get("audit").json()["role"] == "admin"
        assert is_always(service, editor, 200, "users/1000/segments")
        eventually(lambda: rows.column("SELECT last_used_on IS NOT NULL FROM tokens") == [True])
        listed = token(url, tmp_path, "list").splitlines()
        assert len(listed) == 2
        assert listed[0].split() == ["name", "role", "made", "ends", "last", "used", "state"]
        assert listed[1].startswith("importer")
        assert listed[1].rstrip().endswith("in force")
        assert editor not in "".join(listed)

        assert token(url, tmp_path, "revoke", "importer") == "revoked importer\n"

        eventually(lambda: is_always(service, editor, 401))
        eventually(lambda: is_always(service, editor, 401, "users/1000/segments"))
        assert is_always(service, None, 401)
        assert "revoked" in token(url, tmp_path, "list").splitlines()[1]
        assert service.stop() == (0, "")
        assert editor not in service.errors

    found = rows("SELECT operation, actor, subject FROM audit_log ORDER BY id")
    assert [(operation, subject) for operation, _, subject in found] == [
        ("token-created", "importer"),
        ("segment-created", "A"),
        ("token-revoked", "importer"),
    ]
    assert found[0][1].endswith(" on the command line")
    assert [actor for _, actor, _ in found] == [found[0][1], "importer", found[0][1]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("create", "--role", "owner", "--name", "one"), "owner"),
        (("create", "--name", "one"), "role"),
        (("create", "--role", "admin"), "name"),
        (("create", "--role", "admin", "--name", "anonymous"), "--name"),
        (("create", "--role", "admin", "--name", "segmentd"), "--name"),
        (("create", "--role", "admin", "--name", ""), "--name"),
        (("create", "--role", "admin", "--name", "two  blanks"), "--name"),
        (("create", "--role", "admin", "--name", "имя"), "--name"),
        (("create", "--role", "admin", "--name", "a" * 129), "--name"),
        (("create", "--role", "admin", "--name", "one", "--expires", "soon"), "--expires"),
        (("create", "--role", "admin", "--name", "one", "--expires", "0d"), "--expires"),
        (("create", "--role", "admin", "--name", "one", "--expires", "-1d"), "--expires"),
        (("create", "--role", "admin", "--name", "one", "--expires", "2100-01-01"), "--expires"),
        (("create", "--role", "admin", "--name", "one", "--expires", "2100-01-01T00:00:00"), "--expires"),
        (("revoke",), ""),
    ],
)
def test_an_error_of_use_leaves_with_2_and_one_line(
    url: str, rows: Rows, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    ended = run("token", *arguments, "--database-url", url, cwd=tmp_path)

    assert (ended.returncode, ended.stdout) == (2, ""), ended
    [line] = ended.stderr.splitlines()
    assert line.startswith("segmentd: ")
    assert named.lower() in line.lower()
    assert rows("SELECT FROM tokens") == []


def test_what_cannot_be_done_is_an_error_of_one_line(url: str, tmp_path: Path) -> None:
    database = ("--database-url", url)
    create = ("token", "create", "--role", "reader", "--name", "one")
    created(url, tmp_path, "reader", "one")

    assert "the name nobody" in failure(run("token", "revoke", "nobody", *database, cwd=tmp_path))
    assert "the name one" in failure(run(*create, *database, cwd=tmp_path))
    past = failure(run(*create, "--expires", "2020-01-01T00:00:00Z", *database, cwd=tmp_path))
    assert "expired already" in past


@pytest.mark.parametrize(
    "expires", ["90d", "12h", "30m", "2100-01-01T00:00:00Z", "2100-01-01T00:00:00+03:00"]
)
def test_a_token_ends_when_it_is_asked_to(url: str, rows: Rows, tmp_path: Path, expires: str) -> None:
    created(url, tmp_path, "reader", "one", "--expires", expires)

    wanted = {"90d": "90 days", "12h": "12:00:00", "30m": "00:30:00"}.get(expires)
    if wanted is None:
        found = rows("SELECT expires_at = %s::timestamptz FROM tokens", expires)
    else:
        # The end is reckoned before the token is made.
        found = rows(
            "SELECT expires_at - created_at BETWEEN %s::interval - interval '1 minute' AND %s FROM tokens",
            wanted,
            wanted,
        )
    assert found == [(True,)]


# The admin's token by setting


def test_a_secret_that_is_set_is_the_admin_s_and_stays_revoked_once_it_is(
    url: str, rows: Rows, tmp_path: Path
) -> None:
    secret = "a secret that an operator has chosen".replace(" ", "-")
    env = {"SEGMENTD_ADMIN_TOKEN": secret}
    for _ in range(2):
        with serving("--database-url", url, *EVERYBODY, cwd=tmp_path, env=env) as service:
            service.ready()
            assert [status(service), status(service, secret, "audit")] == [401, 200]
            assert service.stop() == (0, "")
            assert secret not in service.errors
    assert rows("SELECT name, role FROM tokens") == [("admin", "admin")]
    token(url, tmp_path, "revoke", "admin")

    with serving("--database-url", url, *EVERYBODY, cwd=tmp_path, env=env) as service:
        service.ready()
        assert [status(service), status(service, secret)] == [401, 401]
        assert service.stop() == (0, "")
        assert "admin_token is not in force" in service.errors
    assert len(rows("SELECT FROM tokens")) == 1


def test_the_first_start_leaves_the_admin_s_token_in_a_file_for_its_owner_alone(
    url: str, rows: Rows, tmp_path: Path
) -> None:
    file = tmp_path / "kept" / "admin.token"
    arguments = ("--database-url", url, *EVERYBODY, "--admin-token-file", str(file))
    with serving(*arguments, cwd=tmp_path) as service:
        service.ready()
        secret = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [*file.parent.iterdir()] == [file]
        assert [status(service), status(service, secret, "audit")] == [401, 200]
        assert service.stop() == (0, "")
        assert secret not in service.errors
    token(url, tmp_path, "revoke", "admin")

    with serving(*arguments, cwd=tmp_path) as service:
        service.ready()
        assert file.read_text().strip() == secret
        assert status(service, secret, "audit") == 401
        assert service.stop() == (0, "")
    assert len(rows("SELECT FROM tokens")) == 1


def test_a_start_that_broke_off_after_the_file_was_made_takes_the_secret_in_it(
    url: str, tmp_path: Path
) -> None:
    file = tmp_path / "admin.token"
    file.write_text(new_secret() + "\n")
    with serving("--database-url", url, "--admin-token-file", str(file), cwd=tmp_path) as service:
        service.ready()
        assert status(service, file.read_text().strip(), "audit") == 200
        assert service.stop() == (0, "")


@pytest.mark.parametrize("place", ["a file/admin.token", "."])
def test_a_file_that_cannot_be_made_is_an_error_of_one_line(url: str, tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").write_text("")
    arguments = ("serve", "--port", "0", "--database-url", url, "--admin-token-file", tmp_path / place)

    assert "the admin token cannot be kept in " in failure(run(*arguments, cwd=tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short", b"\xff" * 40], ids=["empty", "blank", "short", "not ASCII"]
)
def test_a_file_that_holds_no_token_is_an_error_of_one_line(
    url: str, rows: Rows, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "admin.token"
    file.write_bytes(content)
    arguments = ("serve", "--port", "0", "--database-url", url, "--admin-token-file", file)

    assert failure(run(*arguments, cwd=tmp_path)).startswith(f"{file} holds no token")
    assert rows("SELECT FROM tokens") == []


# The keys of links


def test_links_of_old_keys_work_for_as_long_as_the_operator_keeps_them(
    url: str, rows: Rows, tmp_path: Path
) -> None:
    with serving("--database-url", url, cwd=tmp_path) as service:
        service.ready()

        def link() -> str:
            period = {"from": "2020-01-01T00:00:00Z", "to": "2021-01-01T00:00:00Z"}
            with service.client() as client:
                answer = client.post("reports", json=period, headers={"Prefer": "wait=60"})
            assert answer.json()["status"] == "done", answer.text
            made: str = answer.json()["url"]
            return made

        def works(link: str) -> bool:
            return httpx.get(link, timeout=PATIENCE_S, verify=TLS).status_code == 200

        def rotate(*arguments: str) -> None:
            ended = run("key", "rotate", *arguments, "--database-url", url, cwd=tmp_path)
            assert (ended.returncode, ended.stderr) == (0, "")

        first = link()
        rotate()
        second = link()
        assert [works(first), works(second)] == [True, True]

        rotate("--keep-days", "0")

        third = link()
        assert [works(first), works(second), works(third)] == [False, False, True]
        assert service.stop() == (0, "")
    assert rows.column("SELECT operation FROM audit_log") == ["signing-key-replaced"] * 2


@pytest.mark.parametrize("days", ["-1", "3651", "nan", "x"])
def test_a_number_of_days_that_is_none_leaves_with_2(url: str, rows: Rows, tmp_path: Path, days: str) -> None:
    ended = run("key", "rotate", f"--keep-days={days}", "--database-url", url, cwd=tmp_path)

    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)
    assert rows("SELECT FROM audit_log") == []


# The stop in two steps


def test_before_it_stops_it_says_that_it_is_not_ready_and_goes_on_to_answer(url: str, tmp_path: Path) -> None:
    env = {"SEGMENTD_UNREADY_SECONDS": "3000"}
    with serving("--database-url", url, cwd=tmp_path, workers=2, env=env) as service:
        service.ready()

        def ready() -> int:
            return httpx.get(f"{service.url}/readyz", timeout=PATIENCE_S, verify=TLS).status_code

        assert ready() == 200

        os.kill(service.pid, signal.SIGTERM)

        eventually(lambda: all(ready() == 503 for _ in range(20)))
        assert is_always(service, None, 200)
        assert is_always(service, None, 200, "users/1000/segments")
        assert httpx.get(f"{service.url}/livez", verify=TLS).status_code == 200
        assert len(service.workers()) == 2
        assert service.stop(signal.SIGTERM) == (0, "")
        assert "Traceback" not in service.errors
