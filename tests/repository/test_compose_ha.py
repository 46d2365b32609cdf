"""compose.ha.yaml, as text: whether its parts fit each other, and segmentd."""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from segmentd.config import Settings
from segmentd.serve.connections import needs_of_node
from segmentd.storage.database_url import check_url

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "compose.ha.yaml").read_text("utf-8")
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(TEXT)
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
PATRONI: Final[dict[str, Any]] = yaml.safe_load(COMPOSE["configs"]["patroni"]["content"])
NODES: Final = ["segmentd1", "segmentd2"]
DATABASES: Final = ["postgres1", "postgres2", "postgres3"]


def test_each_node_knows_every_postgresql_and_wants_the_one_that_takes_writes() -> None:
    for name in NODES:
        given = SERVICES[name]["environment"]["SEGMENTD_DATABASE_URL"]
        url = re.sub(r"\$\{.*?\}", "secret", given)
        check_url(url)
        assert urlsplit(url).netloc.rpartition("@")[2].split(",") == DATABASES
        assert urlsplit(url).query == "target_session_attrs=read-write"


def test_each_commit_waits_for_a_standby_and_the_connections_suffice_for_both_nodes() -> None:
    dcs = PATRONI["bootstrap"]["dcs"]
    assert dcs["synchronous_mode"] is True
    assert dcs["loop_wait"] + 2 * dcs["retry_timeout"] <= dcs["ttl"], "or Patroni refuses it"
    wanted = len(NODES) * needs_of_node(Settings(workers=8)).most
    assert dcs["postgresql"]["parameters"]["max_connections"] > wanted
    assert {"encoding": "UTF8"} in PATRONI["bootstrap"]["initdb"]
    for name in DATABASES:
        environment = SERVICES[name]["environment"]
        assert environment["PATRONI_NAME"] == name
        assert environment["PATRONI_POSTGRESQL_CONNECT_ADDRESS"] == f"{name}:5432"


def test_every_secret_has_to_be_given_and_only_the_nodes_have_a_door() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|ADMIN_TOKEN", variable):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?set it in .env\}", value), variable
        assert service["cap_drop"] == ["ALL"]
        assert ("ports" in service) == (name == "haproxy")
    assert "trust" not in TEXT
    listed = re.search(r"printf '(.*)'", TEXT)
    assert listed
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert {line.split("=")[0] for line in listed[1].split("\\n") if line} == required


def test_what_must_outlive_a_container_is_in_a_volume_of_its_own() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    names = [mount.split(":")[0] for mount in mounts]
    assert {*names} == {*COMPOSE["volumes"]}
    assert {name for name in names if names.count(name) > 1} == {"reports"}
    assert {SERVICES[name]["environment"]["SEGMENTD_REPORT_STORE"] for name in NODES} == {"file:///reports"}
    assert PATRONI["postgresql"]["data_dir"].startswith("/data/")
