"""The chart: every object against the Kubernetes API's schema, values against the chart's own, and what must never be in it."""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from daemonset import grafana
from tests.helm.render import CHART, defaults, objects, render

EVERYTHING: dict[str, Any] = {
    "metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}},
    "prometheusRule": {"enabled": True}, "dashboards": {"enabled": True},
    "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    "hubble": {"tls": {"source": "cert-manager", "issuerRef": {"name": "ca"}}}, "conntrack": "host", "detachOnExit": True,
    "otlp": {"endpoint": "http://tempo:4317", "env": [{"name": "OTEL_EXPORTER_OTLP_COMPRESSION", "value": "gzip"}]},
    "verify": {"prometheus": "http://prometheus.monitoring:9090"},
    "extraEnv": [{"name": "X", "value": "y"}], "podLabels": {"team": "platform"}, "podAnnotations": {"a": "b"}, "state": {"hostPath": "/var/lib/sidelight"},
    "security": {"seccomp": {"type": "Localhost"}}, "imagePullSecrets": [{"name": "registry"}], "clusterName": "prod.eu",
}  # fmt: skip
VARIANTS = {
    "defaults": {},
    "everything": EVERYTHING,
    "little": {
        "hubble": {"enabled": False},
        "metrics": {"service": False},
        "serviceAccount": {"create": False, "name": "other"},
    },
    "tls from a secret": {"hubble": {"tls": {"source": "secret"}}},
    "old kernels": {"security": {"sysResourceForOldKernels": True}},
}
CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate"}
"""Of other projects: their schemas are not the API's."""


def daemonset(values: dict[str, Any]) -> dict[str, Any]:
    return next(found for found in objects(render(values)) if found["kind"] == "DaemonSet")


@pytest.mark.parametrize("version", ["1.27", "1.34"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_valid(variant: str, version: str) -> None:
    found = objects(render(VARIANTS[variant]))
    for item in found:
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)
    assert len({(item["kind"], item["metadata"]["name"]) for item in found}) == len(found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_never_more_than_it_needs(variant: str) -> None:
    spec = daemonset(VARIANTS[variant])["spec"]["template"]["spec"]
    context = spec["containers"][0]["securityContext"]
    assert not context["privileged"] and not context["allowPrivilegeEscalation"] and context["readOnlyRootFilesystem"]
    wanted = {"BPF", "NET_ADMIN", "PERFMON"} | ({"SYS_RESOURCE"} if variant == "old kernels" else set())
    assert set(context["capabilities"]["add"]) == wanted and context["capabilities"]["drop"] == ["ALL"]
    assert not any(spec.get(key) for key in ("hostPID", "hostIPC")) and bool(spec.get("hostNetwork")) == (
        variant == "everything"
    )
    paths = {volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume}
    assert paths == {"/sys/fs/cgroup", "/sys/fs/bpf"} | ({"/var/lib/sidelight"} if variant == "everything" else set())
    assert next(m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "cgroup")["readOnly"]
    for item in objects(render(VARIANTS[variant])):
        for rule in item.get("rules", []) if item["kind"] == "ClusterRole" else []:
            assert set(rule["verbs"]) == {"get", "list", "watch"} and "secrets" not in rule["resources"]


def test_the_arguments_are_the_agents() -> None:
    from sidelight.cli.agent import agent_command

    known = {option for parameter in agent_command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for values in VARIANTS.values():
        for argument in daemonset(values)["spec"]["template"]["spec"]["containers"][0]["args"][1:]:
            assert argument.partition("=")[0] in known, argument


def test_verify_runs_without_any_privilege() -> None:
    from sidelight.cli.verify import verify_command

    assert not [item for item in objects(render({})) if item["metadata"]["name"].endswith("-verify")]
    found = next(item for item in objects(render(EVERYTHING)) if item["kind"] == "Deployment")["spec"]["template"][
        "spec"
    ]
    (container,) = found["containers"]
    assert (
        container["securityContext"]["capabilities"] == {"drop": ["ALL"]} and found["securityContext"]["runAsNonRoot"]
    )
    assert not found["automountServiceAccountToken"] and not any("hostPath" in volume for volume in found["volumes"])
    known = {option for parameter in verify_command.params for option in parameter.opts}
    assert all(argument.partition("=")[0] in known for argument in container["args"][1:])


def test_the_configuration_is_read_by_the_agent(tmp_path: Any) -> None:
    from sidelight.cli.config import read_file

    item = next(found for found in objects(render({"config": {"metrics": ["http"], "slow": 0.2, "cidr-groups": {"10.0.0.0/8": "inside"}}})) if found["kind"] == "ConfigMap")  # fmt: skip
    (tmp_path / "sidelight.yaml").write_text(item["data"]["sidelight.yaml"])
    values = read_file(tmp_path / "sidelight.yaml")
    assert values["slow"] == 0.2 and values["cidrs"] == {"10.0.0.0/8": "inside"}


def test_rules_and_dashboards_are_the_files(tmp_path: Any) -> None:
    found = objects(render(EVERYTHING))
    groups = [group["name"] for group in next(o for o in found if o["kind"] == "PrometheusRule")["spec"]["groups"]]
    assert groups == ["sidelight.requests", "sidelight.workloads", "sidelight.itself"]
    boards = [o for o in found if o["metadata"]["name"].startswith("sidelight-dashboard-")]
    assert len(boards) == len(grafana.DASHBOARDS)
    for board in boards:
        ((name, text),) = board["data"].items()
        assert yaml.safe_load(text)["uid"] == f"sidelight-{name.removesuffix('.json')}"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"metrics": {"port": "many"}}, "is not of type"),
        ({"hubble": {"tls": {"source": "maybe"}}}, "is not one of"),
        ({"hubble": {"tls": {"source": "cert-manager"}}}, "too short|non-empty"),
        ({"colour": "red"}, "Additional properties"),
        ({"clusterName": "a b"}, "does not match"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=said):
        render(values)


def test_every_value_is_in_the_schema_and_the_templates() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    for name in defaults():
        assert f".Values.{name}" in templates, name
