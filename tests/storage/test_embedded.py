import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import psycopg
import pytest

from segmentd.domain.errors import StartupFailed
from segmentd.storage.embedded import EmbeddedPostgres, start, url_of_running
from segmentd.storage.embedded_launch import Account, choose_account, programs
from tests.support.postgres import quick_folder

Begin = Callable[[Path], EmbeddedPostgres]

# A program that starts a server, says its URL or why there is none, and stops it when its input ends.
OWNER = """
import signal, sys
from pathlib import Path
from segmentd.domain.errors import StartupFailed
from segmentd.storage.embedded import start
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
try:
    server = start(Path(sys.argv[1]))
except StartupFailed as error:
    sys.exit(error.detail)
print(server.url, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def tmp_path(shared_dir: Path) -> Iterator[Path]:
    """A folder that ends with the test: pytest would keep 40 MB of each."""
    with quick_folder(shared_dir) as folder:
        yield folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def begin() -> Iterator[Begin]:
    """`start`, with a stop at the test's end."""
    with ExitStack() as stack:

        def started(data_dir: Path) -> EmbeddedPostgres:
            server = start(data_dir)
            stack.callback(server.stop)
            return server

        yield started


@contextmanager
def owner_of(data_dir: Path, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that starts a server on `data_dir`, says its URL, and stops it when its input ends."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", OWNER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.stdin and not process.stdin.closed:
                process.stdin.close()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def normal_user() -> list[str]:
    """The prefix of a command that makes it run as a normal user."""
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("root here may not become a normal user: no user namespaces")
    return prefix


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true within 30 seconds"
        time.sleep(0.01)


def save(url: str, word: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS saved (word text)")
        connection.execute("INSERT INTO saved VALUES (%s)", [word])


def saved(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM saved").fetchall()]


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def settings(url: str, *names: str) -> list[str]:
    with psycopg.connect(url) as connection:
        query = "SELECT current_setting(name) FROM unnest(%s::text[]) AS name"
        return [value for (value,) in connection.execute(query, [[*names]]).fetchall()]


def test_the_second_start_finds_what_the_first_one_saved(data_dir: Path, begin: Begin) -> None:
    first = begin(data_dir)
    save(first.url, "kept")
    first.stop()
    assert not first.is_running()

    second = begin(data_dir)

    assert second.is_running()
    assert saved(second.url) == ["kept"]


def test_a_second_stop_does_nothing(used_dir: Path, begin: Begin) -> None:
    server = begin(used_dir)
    server.stop()
    successor = begin(used_dir)

    server.stop()

    assert successor.is_running()
    assert url_of_running(used_dir) == successor.url


def test_it_is_careful_with_data_and_the_same_in_every_country(data_dir: Path, begin: Begin) -> None:
    url = begin(data_dir).url

    assert settings(url, "fsync", "full_page_writes", "data_checksums", "synchronous_commit") == ["on"] * 4
    assert settings(url, "server_encoding", "timezone", "lc_messages") == ["UTF8", "UTC", "C"]
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert row == ("b", "C.UTF-8")


def test_a_path_may_have_blanks_and_letters_of_any_script(tmp_path: Path, begin: Begin) -> None:
    place = tmp_path / "my data, 'quoted' \"twice\"" / "данные"

    server = begin(place)

    save(server.url, "слово")
    assert saved(server.url) == ["слово"]
    assert url_of_running(place) == server.url


@pytest.mark.parametrize("prefix", ["мои ", "100% %2F @:?&", "a,b"])
def test_so_may_the_path_of_the_temporary_folder(
    used_dir: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    with TemporaryDirectory(prefix=prefix, dir="/tmp") as temporary, monkeypatch.context() as there:
        there.setattr("tempfile.tempdir", temporary)
        server = begin(used_dir)

        save(server.url, "kept")
        assert url_of_running(used_dir) == server.url
        server.stop()


def test_a_temporary_folder_with_a_long_path_is_not_taken_for_the_socket(
    tmp_path: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("l" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))

    server = begin(tmp_path / "data")

    save(server.url, "short enough")


def test_two_run_at_once_on_two_data_directories(tmp_path: Path, begin: Begin) -> None:
    one, other = begin(tmp_path / "one"), begin(tmp_path / "other")

    save(one.url, "one")
    save(other.url, "other")

    assert (saved(one.url), saved(other.url)) == (["one"], ["other"])


def test_it_starts_from_a_relative_path(
    tmp_path: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    server = begin(Path("data"))

    assert url_of_running(tmp_path / "data") == server.url


def test_settings_for_other_servers_in_the_environment_do_not_matter(
    data_dir: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {
        "PGDATA": "/nowhere",
        "PGHOST": "nowhere",
        "PGPORT": "6543",
        "PGUSER": "nobody",
        "PGDATABASE": "none",
    }
    for name, value in {**others, "LC_ALL": "xx_XX.nonsense", "LANG": "xx_XX"}.items():
        monkeypatch.setenv(name, value)

    save(begin(data_dir).url, "kept")


def test_a_data_directory_in_use_is_refused_with_the_process_that_uses_it(used_dir: Path) -> None:
    with owner_of(used_dir) as owner:
        url = line_of(owner)

        with pytest.raises(StartupFailed, match=f"in use by process {owner.pid}"):
            start(used_dir)

        save(url, "unharmed")


def test_another_process_learns_the_url_of_the_running_server_and_of_no_other(data_dir: Path) -> None:
    assert url_of_running(data_dir) is None
    with owner_of(data_dir) as owner:
        url = line_of(owner)
        assert url_of_running(data_dir) == url
    assert url_of_running(data_dir) is None


def test_a_killed_owner_loses_nothing_that_was_acknowledged(used_dir: Path, begin: Begin) -> None:
    with owner_of(used_dir) as owner:
        save(line_of(owner), "acknowledged")
        owner.kill()
        owner.wait()
        assert url_of_running(used_dir) is None

        server = begin(used_dir)

    assert saved(server.url) == ["acknowledged"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux notifies a child of its parent's death")
def test_a_killed_owner_takes_postgresql_with_it(used_dir: Path, begin: Begin) -> None:
    with owner_of(used_dir) as owner:
        line_of(owner)
        owner.kill()

        eventually(lambda: not (used_dir / "postgres" / "postmaster.pid").exists())
    begin(used_dir)  # which clears away the folder of the socket


def test_a_killed_owner_leaves_no_folder_of_a_socket_behind_for_long(used_dir: Path, begin: Begin) -> None:
    with owner_of(used_dir) as owner:
        left = Path(settings(line_of(owner), "unix_socket_directories")[0].strip('"'))
        assert left.is_dir()
        owner.kill()
        owner.wait()

        begin(used_dir)

    assert not left.exists()


def test_a_start_killed_half_way_through_initdb_does_not_stop_the_next(data_dir: Path, begin: Begin) -> None:
    with owner_of(data_dir) as owner:
        eventually(lambda: list(data_dir.glob("postgres.init-*/pgdata/base")))
        owner.kill()
        owner.wait()

        server = begin(data_dir)

    save(server.url, "begun again")


def test_a_half_made_folder_of_a_first_start_is_cleared_away(data_dir: Path, begin: Begin) -> None:
    half_made = data_dir / "postgres.init-0123" / "pgdata"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    (data_dir / "postgres.password").write_text("of the start that did not end")

    server = begin(data_dir)

    save(server.url, "begun again")
    assert not half_made.exists()


def test_a_living_server_that_lost_its_owner_is_stopped_in_order_and_followed(
    used_dir: Path, begin: Begin
) -> None:
    with TemporaryDirectory(dir="/tmp") as socket_dir, orphan_on(used_dir, socket_dir) as orphan:
        server = begin(used_dir)

        assert orphan.wait(timeout=30) == 0
    save(server.url, "followed")


def test_a_server_whose_owner_is_dead_is_not_given_to_others(used_dir: Path) -> None:
    # As when a process that the owner forked outlives it, with the lock.
    (used_dir / "postgres.lock").write_text(f"{ended_process()}\n")
    with (
        TemporaryDirectory(dir="/tmp") as socket_dir,
        orphan_on(used_dir, socket_dir),
        (used_dir / "postgres.lock").open() as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert url_of_running(used_dir) is None


@contextmanager
def orphan_on(used_dir: Path, socket_dir: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server on `used_dir` that no one holds a lock for, as a killed owner leaves it where Linux is not."""
    pgdata, binaries = used_dir.resolve() / "postgres", programs()
    account, _ = choose_account(binaries, used_dir, pgdata)
    options = ("-c", "listen_addresses=", "-k", socket_dir)
    command = account.command(binaries / "postgres", "-D", pgdata, *options)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as orphan:
        try:
            eventually(lambda: "ready" in pid_file_of(used_dir))
            yield orphan
        finally:
            orphan.send_signal(signal.SIGQUIT)


def pid_file_of(data_dir: Path) -> str:
    path = data_dir / "postgres" / "postmaster.pid"
    return path.read_text() if path.exists() else ""


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize(
    "pid", [ended_process, os.getpid, os.getppid, lambda: 1], ids=["dead", "us", "ours", "init"]
)
def test_a_leftover_of_a_killed_server_does_not_stop_the_next_whomever_its_number_belongs_to(
    used_dir: Path, begin: Begin, pid: Callable[[], int]
) -> None:
    server = begin(used_dir)
    save(server.url, "kept")
    left = pid_file_of(used_dir).splitlines(keepends=True)
    server.stop()
    (used_dir / "postgres" / "postmaster.pid").write_text("".join([f"{pid()}\n", *left[1:]]))

    assert saved(begin(used_dir).url) == ["kept"]


def test_an_empty_leftover_does_not_stop_the_next_start(used_dir: Path, begin: Begin) -> None:
    (used_dir / "postgres" / "postmaster.pid").touch()

    assert begin(used_dir).is_running()


def test_a_killed_server_is_seen_and_can_be_started_again(used_dir: Path, begin: Begin) -> None:
    server = begin(used_dir)
    save(server.url, "acknowledged")

    os.kill(postmaster_pid(used_dir), signal.SIGKILL)

    eventually(lambda: not server.is_running())
    server.stop()
    assert saved(begin(used_dir).url) == ["acknowledged"]


def test_it_outlives_the_thread_that_started_it(used_dir: Path, begin: Begin) -> None:
    with ThreadPoolExecutor(1) as brief:
        server = brief.submit(begin, used_dir).result()

    save(server.url, "still here")
    assert settings(server.url, "listen_addresses") == [""]
    assert "shutdown request" not in (used_dir / "postgres.log").read_text()


def test_a_killed_server_is_not_followed_while_its_processes_still_write(
    used_dir: Path, begin: Begin
) -> None:
    server = begin(used_dir)
    save(server.url, "acknowledged")
    with psycopg.connect(server.url, autocommit=True) as busy, ThreadPoolExecutor(1) as beside:
        # It computes without a wait, so it does not notice that its postmaster is gone.
        work = beside.submit(busy.execute, "SELECT count(*) FROM (SELECT generate_series(1, 20000000))")
        eventually(lambda: activity_of(server.url, busy.info.backend_pid) == "active")
        os.kill(postmaster_pid(used_dir), signal.SIGKILL)
        eventually(lambda: not server.is_running())
        server.stop()

        successor = begin(used_dir)

        assert "shared memory block" in (used_dir / "postgres.log").read_text()
        assert work.exception() is None or isinstance(work.exception(), psycopg.OperationalError)
    assert saved(successor.url) == ["acknowledged"]


def activity_of(url: str, pid: int) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    return row[0] if row else ""


def test_ctrl_c_at_the_terminal_leaves_the_stopping_to_the_owner(used_dir: Path) -> None:
    with owner_of(used_dir) as owner:
        url = line_of(owner)

        os.killpg(owner.pid, signal.SIGINT)

        assert line_of(owner) == "interrupted"
        save(url, "still here")
        assert os.getpgid(postmaster_pid(used_dir)) != owner.pid
    assert owner.returncode == 0


def test_the_password_is_for_its_owner_only(data_dir: Path, begin: Begin) -> None:
    begin(data_dir)

    for name, mode in {"postgres.password": 0o600, "postgres.log": 0o600, "postgres": 0o700}.items():
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == mode


def test_a_new_data_directory_cannot_be_listed_by_others(data_dir: Path, begin: Begin) -> None:
    begin(data_dir)

    assert not stat.S_IMODE(data_dir.stat().st_mode) & 0o066


@pytest.mark.parametrize("password", [":wrong", ":", ""])
def test_no_one_enters_without_the_password(
    used_dir: Path, begin: Begin, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    url = re.sub(r":[^:@]+@", f"{password}@", begin(used_dir).url)

    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url)


def test_it_is_reached_through_a_private_socket_and_not_through_the_network(
    used_dir: Path, begin: Begin
) -> None:
    url = begin(used_dir).url

    addresses, socket_dir = settings(url, "listen_addresses", "unix_socket_directories")

    assert addresses == ""
    assert stat.S_IMODE(Path(socket_dir.strip('"')).stat().st_mode) == 0o700


def test_a_file_in_place_of_the_folder_is_refused(data_dir: Path) -> None:
    data_dir.touch()

    with pytest.raises(StartupFailed, match="is a file"):
        start(data_dir)


def test_a_folder_that_is_not_writable_is_refused(data_dir: Path) -> None:
    data_dir.mkdir(0o500)
    with owner_of(data_dir, *normal_user()) as owner:
        assert owner.stderr is not None
        assert "is not writable" in owner.stderr.read()


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(StartupFailed, match="cannot be made"):
        start(Path(os.devnull).parent / "fd" / "data" if sys.platform == "darwin" else Path("/proc/data"))


def test_data_of_another_major_version_is_refused(used_dir: Path) -> None:
    (used_dir / "postgres" / "PG_VERSION").write_text("17\n")

    with pytest.raises(StartupFailed, match="made by PostgreSQL 17, and this segmentd brings 18"):
        start(used_dir)


def test_a_lost_password_file_is_a_plain_error(used_dir: Path) -> None:
    (used_dir / "postgres.password").unlink()

    with pytest.raises(StartupFailed, match=r"password file .* is gone"):
        start(used_dir)


def test_the_error_of_a_server_that_does_not_start_has_its_last_line(used_dir: Path) -> None:
    with (used_dir / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("no_such_setting = 1\n")

    with pytest.raises(StartupFailed, match=r"did not start: configuration file .* contains errors"):
        start(used_dir)
    assert url_of_running(used_dir) is None


def test_a_foreign_folder_in_the_place_of_pgdata_is_not_touched(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "diary").write_text("mine")

    with pytest.raises(StartupFailed, match="cannot be used"):
        start(data_dir)
    assert (data_dir / "postgres" / "diary").read_text() == "mine"


def test_a_platform_without_the_wheel_is_a_plain_error(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none(_: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find_none)

    with pytest.raises(StartupFailed, match="no embedded PostgreSQL for this platform"):
        start(data_dir)


def test_a_normal_user_may_start_it(data_dir: Path) -> None:
    with owner_of(data_dir, *normal_user()) as owner:
        save(line_of(owner), "as a normal user")
    assert owner.returncode == 0


class TestAsRoot:
    """What root finds: PostgreSQL refuses to run as root."""

    @pytest.fixture(autouse=True)
    def _root(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("the tests do not run as root")

    @pytest.fixture
    def open_dir(self) -> Iterator[Path]:
        """A folder that every account reaches, as those of pytest are not."""
        with quick_folder(Path(gettempdir())) as folder:
            folder.chmod(0o755)
            yield folder

    @pytest.fixture
    def _no_namespaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")

    def spare_account(self, place: Path) -> Account:
        try:
            account, _ = choose_account(programs(), place, place / "postgres")
        except StartupFailed as error:
            pytest.skip(error.detail)
        return account

    def test_no_account_is_made_and_the_files_stay_roots(self, data_dir: Path, begin: Begin) -> None:
        normal_user()
        begin(data_dir).stop()
        begin(data_dir)

        assert {path.lstat().st_uid for path in data_dir.rglob("*")} == {0}

    @pytest.mark.usefixtures("_no_namespaces")
    def test_a_spare_account_serves_where_namespaces_are_forbidden(
        self, open_dir: Path, begin: Begin
    ) -> None:
        account = self.spare_account(open_dir)
        server = begin(open_dir / "data")
        save(server.url, "kept")
        server.stop()

        assert saved(begin(open_dir / "data").url) == ["kept"]
        assert (open_dir / "data" / "postgres").stat().st_uid == account.uid != 0

    def test_data_made_with_namespaces_serve_where_they_are_forbidden(
        self, open_dir: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = begin(open_dir / "data")
        save(server.url, "kept")
        server.stop()
        monkeypatch.setenv("PATH", "/nowhere")
        self.spare_account(open_dir)

        assert saved(begin(open_dir / "data").url) == ["kept"]

    @pytest.mark.parametrize("name", [True, False], ids=["with a name", "without a name, as in a container"])
    def test_the_owner_of_a_data_directory_stays_its_owner(
        self, open_dir: Path, begin: Begin, *, name: bool
    ) -> None:
        owner = pwd.getpwall()[-1].pw_uid if name else 54321
        data_dir = open_dir / "data"
        data_dir.mkdir(0o700)
        os.chown(data_dir, owner, owner)
        try:
            account, _ = choose_account(programs(), data_dir, data_dir / "postgres")
        except StartupFailed as error:
            pytest.skip(error.detail)
        if account.uid != owner:
            pytest.skip("the owner does not reach PostgreSQL here")

        save(begin(data_dir).url, "for its owner")

        assert {path.lstat().st_uid for path in data_dir.rglob("*")} == {owner}

    @pytest.mark.usefixtures("_no_namespaces")
    def test_a_folder_no_account_reaches_is_a_plain_error(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)

        with pytest.raises(StartupFailed, match="run segmentd as a normal user, or give a database URL"):
            start(tmp_path / "data")
