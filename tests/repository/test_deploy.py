"""The dashboard and the alerts speak of what there is: each is compared with what a real service shows."""

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from segmentd.config import described
from tests.support.postgres import new_database
from tests.support.processes import Serving, eventually, serving
from tests.support.promql import WORDS, Expression
from tests.support.scraping import Scrape

ROOT: Final = Path(__file__).parents[2]
DASHBOARD: Final = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text("utf-8"))
ALERTS: Final = yaml.safe_load((ROOT / "deploy/prometheus-alerts.yaml").read_text("utf-8"))
PROMETHEUS: Final = yaml.safe_load((ROOT / "deploy/prometheus.yaml").read_text("utf-8"))
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES: Final = [rule for group in ALERTS["groups"] for rule in group["rules"]]

# Prometheus puts these beside what it scrapes.
OF_PROMETHEUS: Final = {"up"}
LABELS_OF_PROMETHEUS: Final = {"job", "instance"}
# Metrics that no panel needs.
NOT_SHOWN: Final[set[str]] = set()

EXPRESSIONS: Final = {
    **{
        f"{panel['title']} {target['refId']}": Expression(target["expr"])
        for panel in PANELS
        for target in panel["targets"]
    },
    **{rule["alert"]: Expression(rule["expr"]) for rule in RULES},
}


@pytest.fixture(scope="module")
def scrape(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """What a real service shows that has a replica, and a job that waits."""
    with (
        new_database(postgres_url, "template1") as url,
        serving("--database-url", url, cwd=tmp_path_factory.mktemp("deploy")) as service,
    ):
        service.ready()
        with service.client() as client:
            client.post("segments", json={"slug": "A"})
            client.post("users/1/segments", json={"add": ["A"]})
            client.get("users/1/segments")
            client.post("lookup", json={"user_ids": [1]})
            eventually(lambda: "segmentd_replica_age_seconds" in scraped(service))
            [node_worker] = [pid for pid, command in service.family().items() if "node_worker" in command]
            os.kill(node_worker, signal.SIGSTOP)
            client.post("reports", json={"month": "2026-01"})
            found = scraped(service)
            os.kill(node_worker, signal.SIGCONT)
        assert service.stop() == (0, "")
    return found


def scraped(service: Serving) -> Scrape:
    return Scrape(httpx.get(f"{service.url}/metrics").text)


def labels_of(scrape: Scrape, metric: str) -> dict[str, set[str]]:
    """The labels of a metric, with the values that they have."""
    values: dict[str, set[str]] = {}
    for sample in scrape.samples:
        if sample.name == metric:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    return values


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_bracket_of_an_expression_is_closed(name: str) -> None:
    assert EXPRESSIONS[name].is_balanced()


def test_an_expression_that_is_cut_off_would_be_found() -> None:
    assert not Expression("sum(rate(a[5m])").is_balanced()
    assert not Expression("sum(rate(a[5m)])").is_balanced()
    assert Expression('a{b="(", c=~"}"} unless on (d) e').is_balanced()


def test_every_metric_of_an_expression_is_one_that_there_is(scrape: Scrape) -> None:
    there = {sample.name for sample in scrape.samples} | OF_PROMETHEUS
    for name, expression in EXPRESSIONS.items():
        assert expression.metrics, name
        assert expression.metrics <= there, (name, expression.metrics - there)


def test_every_label_of_an_expression_is_one_that_its_metric_has(scrape: Scrape) -> None:
    for name, expression in EXPRESSIONS.items():
        for metric, matchers in expression.selectors:
            labels = labels_of(scrape, metric)
            for label, operator, value in matchers:
                assert label in labels.keys() | LABELS_OF_PROMETHEUS, (name, metric, label)
                # A value that is written out, or several of them.
                if label in labels and operator in {"=", "=~"} and re.fullmatch(r"[\w/{}|-]+", value):
                    assert {*value.split("|")} <= labels[label], (name, metric, label, value)
        of_any = {label for metric in expression.metrics for label in labels_of(scrape, metric)}
        assert expression.grouped_by <= of_any | LABELS_OF_PROMETHEUS, name


def test_every_metric_is_in_a_panel(scrape: Scrape) -> None:
    targets = [target for panel in PANELS for target in panel["targets"]]
    shown = {metric for target in targets for metric in Expression(target["expr"]).metrics}

    unseen = {
        family
        for family, metric in scrape.families.items()
        if not shown & {sample.name for sample in metric.samples}
    }
    assert unseen == NOT_SHOWN


def test_a_line_s_legend_names_labels_that_the_line_has() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            named = re.findall(r"{{(\w+)}}", target["legendFormat"])
            expression = Expression(target["expr"])
            aggregated = re.search(r"\b(sum|max|min|count)\b", target["expr"]) is not None
            kept = expression.grouped_by if aggregated else LABELS_OF_PROMETHEUS | {"state"}
            assert {*named} <= kept, panel["title"]


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert "unit" in json.dumps(panel), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'instance=~"$instance"' in target["expr"], panel["title"]
    titles = Counter(panel["title"] for panel in PANELS)
    assert [title for title, count in titles.items() if count > 1] == []


def test_no_two_panels_stand_in_one_place() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken.update(
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        )
    assert max(taken.values()) == 1
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len({*ids}) == len(ids)


def test_data_source_and_nodes_can_be_chosen(scrape: Scrape) -> None:
    variables: dict[str, dict[str, Any]] = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    question = variables["instance"]["query"]["query"]
    [(metric, label)] = re.findall(r"label_values\((\w+), (\w+)\)", question)
    assert metric in scrape
    assert label in LABELS_OF_PROMETHEUS


def test_every_alert_says_what_is_wrong_and_what_to_do(scrape: Scrape) -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["alert"].startswith("Segmentd")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert {*rule["annotations"]} == {"summary", "description"}
        assert len(rule["annotations"]["description"]) > 100
        named = {*re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))}
        expression = Expression(rule["expr"])
        of_any = {label for metric in expression.metrics for label in labels_of(scrape, metric)}
        aggregated = re.search(r"\b(sum|max)\b", rule["expr"]) is not None
        assert named <= (expression.grouped_by if aggregated else of_any | LABELS_OF_PROMETHEUS)


def test_every_setting_that_an_alert_names_is_one() -> None:
    settings = {variable for _, variable, _, _ in described()}
    assert {*re.findall(r"SEGMENTD_[A-Z_]+", str(RULES))} <= settings


def test_prometheus_scrapes_under_the_name_that_the_alerts_ask_for_and_knows_their_file() -> None:
    [scraped] = PROMETHEUS["scrape_configs"]
    asked = {
        matcher.value
        for expression in EXPRESSIONS.values()
        for _, matchers in expression.selectors
        for matcher in matchers
        if matcher.label == "job"
    }
    assert asked == {scraped["job_name"]}
    assert scraped["authorization"]["credentials_file"]
    for name in PROMETHEUS["rule_files"]:
        assert (ROOT / "deploy" / name).exists()


def test_no_word_is_taken_for_known_that_no_expression_uses() -> None:
    used = {word for expression in EXPRESSIONS.values() for word in re.findall(r"[a-z_]+", expression.text)}
    assert used >= WORDS
