"""The Helm chart, and the unit for systemd: what is promised of them without a cluster."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import msgspec
import pytest
import yaml

import segmentd
from segmentd.api.roles import ROLES
from segmentd.config import Settings, variable
from segmentd.serve.supervisor import SPARE_SECONDS
from tests.support.foreign import run
from tests.support.readme_examples import blocks

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy/helm/segmentd"
DEFAULTS: Final = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text("utf-8"))
ABOUT: Final = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
SETS: Final = sorted((CHART / "ci").glob("*-values.yaml"))
UNIT: Final = ROOT / "deploy/segmentd.service"
ENVIRONMENT: Final = {variable(field.name) for field in msgspec.structs.fields(Settings)}
# The oldest version that the chart promises, and the newest one that the schemas know.
VERSIONS: Final = ["1.27.0", "1.37.0"]


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them: map by map."""
    both = {**defaults, **given}
    for name in defaults.keys() & given.keys():
        if isinstance(defaults[name], dict) and isinstance(given[name], dict):
            both[name] = merged(defaults[name], given[name])
    return both


def values(path: Path) -> dict[str, Any]:
    return merged(DEFAULTS, yaml.safe_load(path.read_text("utf-8")))


def paths(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(value, dict):
        for name, each in value.items():
            yield from paths(each, (*path, name))


# Without Helm


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_every_set_of_values_keeps_to_the_schema(path: Path) -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(values(path), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"database": {"urlSecret": {"name": ""}}},
        {"replica": 2},
        {"replicas": 0},
        {"image": {"digest": "sha256:12"}},
        {"settings": {"max_age_second": 3}},
        {"settings": {"max_age_seconds": 61}},
        {"settings": {"database_url": "postgresql://user:secret@host/segmentd"}},
        {"settings": {"report_key": "a" * 32}},
        {"reports": {"store": "bucket"}},
        {"networkPolicy": {"clients": "all"}},
        {"persistence": {"size": "ten"}},
    ],
    ids=json.dumps,
)
def test_values_that_cannot_work_are_refused_by_the_schema(wrong: dict[str, Any]) -> None:
    known = {"database": {"urlSecret": {"name": "segmentd-database"}}}
    given = merged(DEFAULTS, merged(known, wrong) if wrong else {})

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(given, SCHEMA)


def test_the_schema_knows_the_settings_of_the_code_but_no_secret() -> None:
    spec = importlib.util.spec_from_file_location("chart", ROOT / ".ci/chart.py")
    assert spec is not None
    assert spec.loader is not None
    chart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chart)
    known = SCHEMA["properties"]["settings"]

    assert known == chart.settings(), "make configuration"
    assert not {name for name in known["properties"] if re.search("token|_key|url$", name)} - {"public_url"}


def test_every_value_is_used_by_a_template_and_has_a_schema() -> None:
    templates = "".join(path.read_text("utf-8") for path in (CHART / "templates").iterdir())
    for path in paths(DEFAULTS):
        schema = SCHEMA
        for name in path:
            schema = schema.get("properties", {}).get(name, {})
            if "additionalProperties" not in schema:
                break
            assert schema, path
    for name, value in DEFAULTS.items():
        used = [f".Values.{name}.{inner}" for inner in value] if isinstance(value, dict) and value else []
        whole = re.search(rf"\.Values\.{name}\b(?!\.)", templates)
        assert whole or all(each in templates for each in used), (name, used)


def test_the_chart_is_of_this_version() -> None:
    assert ABOUT["appVersion"] == ABOUT["version"] == segmentd.__version__


def test_the_values_of_the_guide_keep_to_the_schema() -> None:
    page = (ROOT / "docs/guide/kubernetes.md").read_text("utf-8")
    [example] = [block.text for block in blocks(page) if block.language == "yaml"]

    jsonschema.validate(merged(DEFAULTS, yaml.safe_load(example)), SCHEMA)


# With Helm


Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def helm() -> str:
    found = shutil.which("helm")
    if found is None:
        pytest.skip("there is no helm here")
    return found


def rendered(helm: str, *arguments: str) -> list[Manifest]:
    text = run(ROOT, helm, "template", "shop", str(CHART), "--namespace", "crm", *arguments)
    return [each for each in yaml.safe_load_all(text) if each is not None]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == kind]


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    for each in manifests:
        if "template" in each.get("spec", {}):
            yield each["spec"]["template"]["spec"]


@pytest.fixture(scope="module", params=SETS, ids=lambda path: path.stem.removesuffix("-values"))
def installed(request: pytest.FixtureRequest, helm: str) -> tuple[list[Manifest], dict[str, Any]]:
    """What Helm makes of a set of values, and the values."""
    return rendered(helm, "--values", str(request.param)), values(request.param)


Installed = tuple[list[Manifest], dict[str, Any]]
with_helm = pytest.mark.proof


@with_helm
def test_kubernetes_knows_every_field_in_each_version_that_the_chart_promises(installed: Installed) -> None:
    manifests, _ = installed
    for version in VERSIONS:
        for each in manifests:
            if each["kind"] != "ServiceMonitor":  # a kind of the Prometheus operator
                kubernetes_validate.validate(each, version, strict=True)


@with_helm
def test_the_parts_are_those_that_the_values_ask_for(installed: Installed) -> None:
    manifests, given = installed
    wanted = {"StatefulSet", "Service", "ServiceAccount"}
    for name, kind in {
        "autoscaling": "HorizontalPodAutoscaler",
        "podDisruptionBudget": "PodDisruptionBudget",
        "networkPolicy": "NetworkPolicy",
        "serviceMonitor": "ServiceMonitor",
        "migration": "Job",
    }.items():
        wanted |= {kind} if given[name]["enabled"] else set()

    assert {each["kind"] for each in manifests} == wanted
    [nodes] = of_kind(manifests, "StatefulSet")
    assert nodes["spec"].get("replicas") == (None if given["autoscaling"]["enabled"] else given["replicas"])
    assert ("volumeClaimTemplates" in nodes["spec"]) == given["persistence"]["enabled"]


@with_helm
def test_no_container_has_more_rights_than_it_needs(installed: Installed) -> None:
    for pod in pods(installed[0]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["shareProcessNamespace"] is True
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data", "/tmp"}  # noqa: S108


@with_helm
def test_every_variable_is_a_setting_and_a_secret_comes_by_reference(installed: Installed) -> None:
    manifests, given = installed
    [nodes] = of_kind(manifests, "StatefulSet")
    [container] = nodes["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each for each in container["env"]}

    assert len(variables) == len(container["env"])
    assert {name for name in variables if not name.startswith("OTEL_")} <= ENVIRONMENT
    for name, each in variables.items():
        secret = re.search("DATABASE_URL|ADMIN_TOKEN|JWT_KEY|REPORT_KEY", name)
        assert ("valueFrom" in each) == (secret is not None), name
    for name, value in given["settings"].items():
        written = str(value).lower() if isinstance(value, bool) else str(value)
        assert variables[variable(name)]["value"] == written
    assert not of_kind(manifests, "Secret")


@with_helm
def test_a_pod_has_the_time_that_its_settings_need_for_a_stop(installed: Installed) -> None:
    manifests, given = installed
    [nodes] = of_kind(manifests, "StatefulSet")
    needed = given["settings"]["unready_seconds"] + given["settings"]["shutdown_seconds"] + SPARE_SECONDS

    assert nodes["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed


@with_helm
def test_the_probes_ask_addresses_that_need_no_token(installed: Installed) -> None:
    manifests, given = installed
    [nodes] = of_kind(manifests, "StatefulSet")
    [container] = nodes["spec"]["template"]["spec"]["containers"]
    asked = {kind: container[kind]["httpGet"]["path"] for kind in container if kind.endswith("Probe")}

    ready = "/readyz/hot-reads" if given["readyForHotReads"] else "/readyz"
    assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": ready}
    assert {ROLES[each] for each in ("livez", "readyz", "hot_reads_readyz")} == {None}


@with_helm
def test_selectors_find_the_pods_and_one_service_is_scraped(installed: Installed) -> None:
    manifests, _ = installed
    [nodes] = of_kind(manifests, "StatefulSet")
    labels = nodes["spec"]["template"]["metadata"]["labels"].items()
    services = of_kind(manifests, "Service")
    names = {port["name"] for port in nodes["spec"]["template"]["spec"]["containers"][0]["ports"]}

    selectors = [service["spec"]["selector"] for service in services]
    selectors += [
        each["spec"]["selector"]["matchLabels"]
        for each in manifests
        if each["kind"] in {"StatefulSet", "PodDisruptionBudget"}
    ]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(manifests, "NetworkPolicy")]
    for selector in selectors:
        assert selector.items() <= labels
    for job in of_kind(manifests, "Job"):
        assert not selectors[0].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    for service in services:
        assert {port["targetPort"] for port in service["spec"]["ports"]} == names
    assert nodes["spec"]["serviceName"] in {each["metadata"]["name"] for each in services}
    for monitor in of_kind(manifests, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        [found] = [each for each in services if wanted <= each["metadata"]["labels"].items()]
        assert found["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "segmentd"


@with_helm
def test_a_change_of_the_schema_comes_before_the_nodes(installed: Installed) -> None:
    for job in of_kind(installed[0], "Job"):
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        [container] = job["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["migrate"]
        assert [each["name"] for each in container["env"]] == ["SEGMENTD_DATABASE_URL"]


@with_helm
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "database"),
        (["--set", "database.urlSecret.name=db"], "reports.store"),
        (["--set", "database.urlSecret.name=db,replicas=1,autoscaling.enabled=true"], "reports.store"),
        (["--set", "database.urlSecret.name=db,replicas=1,settings.colour=red"], "colour"),
    ],
)
def test_helm_refuses_values_that_cannot_work_and_says_why(
    helm: str, arguments: list[str], said: str
) -> None:
    ended = subprocess.run(
        [helm, "template", "shop", str(CHART), *arguments], capture_output=True, text=True, check=False
    )

    assert ended.returncode != 0
    assert said in ended.stderr


@with_helm
def test_helm_s_own_linter_finds_nothing(helm: str) -> None:
    for path in SETS:
        run(ROOT, helm, "lint", str(CHART), "--strict", "--values", str(path))


# systemd


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/segmentd/bin/segmentd", "/bin/sh"), "utf-8")

    ended = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],  # noqa: S607 # found as the user finds it
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_unit_gives_a_stop_the_time_that_it_needs_and_names_settings_that_there_are() -> None:
    text = UNIT.read_text("utf-8")
    settings = Settings()
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)

    assert int(seconds) > settings.unready_seconds + settings.shutdown_seconds + SPARE_SECONDS
    assert {*re.findall(r"SEGMENTD_\w+", text)} <= ENVIRONMENT
