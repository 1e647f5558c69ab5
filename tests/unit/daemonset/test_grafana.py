"""The dashboards' and rules' queries against the catalogue: each metric and label exists, each panel says what it is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from daemonset import grafana
from sidelight.exporter.catalog import BY_NAME, CATALOG

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "daemonset" / "rules"
SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}")
NAME = re.compile(r"\b((?:http|sidelight|dns|istio|traces|hubble)_[a-z0-9_]+)\b")
LABEL = re.compile(r"([a-zA-Z_]+)\s*(?:=~|!~|!=|=)\s*\"")
SUFFIX = re.compile(r"_(bucket|sum|count)$")
SCRAPED = {"instance", "job", "le"}
VALUES = {"direction": {"transmit", "receive"}, "reporter": {"source", "destination"}}
LABELS = {label for metric in CATALOG for label in metric.labels}


def metric_of(name: str) -> str:
    return name if name in BY_NAME else SUFFIX.sub("", name)


def queries() -> list[tuple[str, str]]:
    found = [(f"{name}: {panel.title}", query.expr) for name, (_, panels) in grafana.DASHBOARDS.items() for panel in panels for query in panel.queries]  # fmt: skip
    for file in ("recording.yaml", "alerts.yaml"):
        for group in yaml.safe_load((RULES / file).read_text())["groups"]:
            found += [(rule.get("record") or rule["alert"], rule["expr"]) for rule in group["rules"]]
    return found


@pytest.mark.parametrize(("where", "expr"), queries(), ids=lambda value: value if len(value) < 60 else "")
def test_a_query_asks_for_what_there_is(where: str, expr: str) -> None:
    recorded = re.sub(r"workload:[a-z_:0-9]+", "", expr)
    for name, labels in SELECTOR.findall(recorded):
        metric = BY_NAME[metric_of(name)]
        for label in LABEL.findall(labels):
            assert label in metric.labels or label in SCRAPED, f"{where}: {name} has no {label}"
        for label, known in VALUES.items():
            for value in re.findall(rf'\b{label}="([^"]*)"', labels):
                assert value in known, f"{where}: {label} is never {value!r}"
    for name in NAME.findall(re.sub(r'"[^"]*"', "", recorded)):
        assert metric_of(name) in BY_NAME or name in LABELS, f"{where}: no metric or label {name}"
    for by in re.findall(r"by \(([^)]*)\)", recorded):
        for label in by.split(","):
            assert label.strip() in LABELS | SCRAPED | {"id", "source", "target", "title"}, f"{where}: by {label}"


@pytest.mark.parametrize("name", grafana.DASHBOARDS)
def test_a_dashboard_is_complete(name: str) -> None:
    board = grafana.dashboard(name)
    ends = set()
    for panel in board["panels"]:
        assert len(panel["description"]) > 20 and panel["targets"], panel["title"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        ends.add((at["x"], at["y"]))
    assert len(ends) == len(board["panels"]), "no two panels in one place"
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == (["datasource"] if name == "sidelight" else ["datasource", "cluster", "namespace", "workload"])


def test_the_rules_by_promtool() -> None:
    for command in (["check", "rules", "recording.yaml", "alerts.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=RULES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    cases = yaml.safe_load((RULES / "tests.yaml").read_text())["tests"]
    fire = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case["exp_alerts"]}
    alerts = {rule["alert"] for group in yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]}  # fmt: skip
    assert fire == alerts, "every alert has a case in which it fires"
