"""The chart as manifests: values checked by its schema, templates rendered by the same engine as Helm's (tests/golang/render.go)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.golang import built

HERE = Path(__file__).resolve().parent
CHART = HERE.parents[1] / "daemonset" / "chart"


def defaults() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in over.items():
        found[key] = (
            _merged(found[key], value) if isinstance(value, dict) and isinstance(found.get(key), dict) else value
        )
    return found


def render(values: dict[str, Any] | None = None, release: str = "sidelight", namespace: str = "kube-system") -> str:
    """`helm template`. Raises jsonschema.ValidationError, CalledProcessError."""
    values = values or {}
    jsonschema.validate(_merged(defaults(), values), json.loads((CHART / "values.schema.json").read_text()))
    done = subprocess.run([str(built("render")), str(CHART), release, namespace], input=json.dumps(values), capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def objects(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def manifests() -> str:
    """daemonset/manifests.yaml: the chart with its defaults, for those without Helm."""
    head = (
        "# Sidelight without Helm: the chart with its default values. Made by `make docs`; change the chart, not this file.\n"
        "#   kubectl apply -f manifests.yaml\n"
    )
    return head + render().replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")
