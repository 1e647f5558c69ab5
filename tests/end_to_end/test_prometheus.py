"""A real Prometheus scrapes an agent that watches the shop; every query of dashboards, rules, Flagger, Argo and Kiali is asked, and the
answers are compared with what the shop's clients did."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemonset import grafana
from sidelight.cli.demo import free_port
from tests.cluster.cluster import Cluster, cluster, shop
from tests.end_to_end.test_kubernetes import listening
from tests.observed import eventually
from tests.running import Running

ROOT = Path(__file__).resolve().parents[2]
WINDOW_S = 20
LOAD = """
import http.client, socket, sys, time
end, n = time.time() + float(sys.argv[1]), 0
with open(sys.argv[2], "w") as log:
    while time.time() < end:
        c = http.client.HTTPConnection("10.96.0.13", 80, timeout=10)
        n = n + 1; c.request("GET", f"/orders/{n}"); c.getresponse().read(); c.close()
        log.write(f"{time.time()}\\n"); log.flush()
        s = socket.socket()
        try: s.connect((sys.argv[3], 6380))
        except OSError: pass
        s.close()
        time.sleep(0.06)
"""
CALLS = """
import grpc, sys, time
end, n = time.time() + float(sys.argv[1]), 0
channel = grpc.insecure_channel(sys.argv[3])
ask, fail = (channel.unary_unary(f"/sidelight.test.Interop/{name}") for name in ("Unary", "Status"))
with open(sys.argv[2], "w") as log:
    while time.time() < end:
        n = n + 1
        if n % 10: ask(b"10")
        else:
            try: fail(b"UNAVAILABLE")
            except grpc.RpcError: pass
        log.write(f"{time.time()}\\n"); log.flush()
        time.sleep(0.1)
"""
COMMANDS = """
import socket, sys, time
end, n = time.time() + float(sys.argv[1]), 0
one = socket.create_connection((sys.argv[3], 6379))
with open(sys.argv[2], "w") as log:
    while time.time() < end:
        n = n + 1
        one.sendall(b"*2\\r\\n$3\\r\\nGET\\r\\n$4\\r\\nname\\r\\n" if n % 5 else b"*2\\r\\n$4\\r\\nINCR\\r\\n$4\\r\\ntext\\r\\n")
        one.recv(1000)
        log.write(f"{time.time()}\\n"); log.flush()
        time.sleep(0.1)
"""
KIALI_BY = (
    "source_cluster,source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,destination_cluster,"
    "destination_service_namespace,destination_service,destination_service_name,destination_workload_namespace,destination_workload,"
    "destination_canonical_service,destination_canonical_revision"
)


@dataclass
class Place:
    agent: Running
    found: Cluster
    port: int
    at: float
    rate: float
    """Requests a second to the shop's web in the window before `at`, by the client's own log."""
    calls: float
    """gRPC calls likewise, of which one in ten fails."""
    commands: float
    """Redis' commands likewise, of which one in five fails."""

    def ask(self, query: str) -> list[dict[str, Any]]:
        text = query.replace("$__rate_interval", f"{WINDOW_S}s")
        for name in ("cluster", "namespace", "workload"):
            text = text.replace(f"${name}", ".*")
        text = re.sub(r"\[(\d+m|\d+h)\]", f"[{WINDOW_S}s]", text)
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": text, "time": self.at})
        with urllib.request.urlopen(url, timeout=30) as response:
            answer = json.load(response)
        assert answer["status"] == "success", (query, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def values(self, query: str, *labels: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(row["metric"].get(label, "") for label in labels): float(row["value"][1]) for row in self.ask(query)
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    scratch = tmp_path_factory.mktemp("prometheus")
    groups = ("http", "rpc", "db", "tcp", "dns", "istio", "servicegraph", "hubble")
    agent = Running(
        "--node-name",
        "node-1",
        "--cluster-name",
        "prod",
        "--fold-http-routes",
        *(a for group in groups for a in ("--metrics", group)),
    )
    port = free_port()
    process = None
    try:
        with cluster(agent.cgroup, scratch) as found:
            agent.observed = found.cgroup / "node-1"
            agent.arguments += ("--kubeconfig", str(found.api.kubeconfig()))
            agent.start()
            config = {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "scrape_configs": [{"job_name": "sidelight", "static_configs": [{"targets": [f"127.0.0.1:{agent.port}"]}]}],
            }  # fmt: skip
            (scratch / "prometheus.yml").write_text(json.dumps(config))
            process = subprocess.Popen(
                ["prometheus", f"--config.file={scratch}/prometheus.yml", f"--storage.tsdb.path={scratch}/data", f"--web.listen-address=127.0.0.1:{port}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            pods = shop(found)
            for name in ("cart", "catalogue-v1", "catalogue-v2", "payments", "web"):
                listening(found, pods[name], 8080)
            listening(found, pods["redis"], 6379)
            answerer, caller = found.pod("calls", "answerer"), found.pod("calls", "caller")
            server = Path(__file__).parent.parent / "peers" / "grpc_server.py"
            found.run(answerer, sys.executable, str(server), "0.0.0.0", "9090", str(scratch / "calls.report"))
            listening(found, answerer, 9090)
            log, calls_log = scratch / "load.log", scratch / "calls.log"
            found.run(caller, sys.executable, "-c", CALLS, str(WINDOW_S + 18), str(calls_log), f"{answerer.ip}:9090")
            asker, commands_log = found.pod("calls", "asker"), scratch / "commands.log"
            set_text = "import socket,sys; s=socket.create_connection((sys.argv[1], 6379)); s.sendall(b'SET text x\\r\\n'); s.recv(100)"
            found.run(asker, "python3", "-c", set_text, pods["redis"].ip).wait(10)
            found.run(asker, "python3", "-c", COMMANDS, str(WINDOW_S + 18), str(commands_log), pods["redis"].ip)
            load = found.run(pods["load"], "python3", "-c", LOAD, str(WINDOW_S + 18), str(log), pods["redis"].ip)
            began = time.time()
            eventually(lambda: time.time() > began + WINDOW_S + 12 or load.poll() is not None, WINDOW_S + 30)
            at = time.time() - 3
            times = [float(line) for line in log.read_text().split()]
            rate = sum(at - WINDOW_S - 1 <= t < at - 1 for t in times) / WINDOW_S
            called = [float(line) for line in calls_log.read_text().split()]
            calls = sum(at - WINDOW_S - 1 <= t < at - 1 for t in called) / WINDOW_S
            commanded = [float(line) for line in commands_log.read_text().split()]
            commands = sum(at - WINDOW_S - 1 <= t < at - 1 for t in commanded) / WINDOW_S
            yield Place(agent, found, port, at, rate, calls, commands)
    finally:
        if process:
            process.kill()
            process.wait()
        agent.close()


def about(expected: float, got: float, within: float = 0.15) -> bool:
    return abs(got - expected) <= within * expected + 0.3


EMPTY = {
    ("Failed look-ups", 0): "no answer was a failure",
    ("Spans", 0): "no OTLP here",
    ("Not named, by why", 0): "every end has a name",
    ("Calls that go on", 0): "none does at that moment",
    ("Transactions", 0): "Redis alone is asked",
    ("Idle in transaction", 0): "Redis alone is asked",
    ("Nanoseconds a run", 0): "kernel.bpf_stats_enabled is 0",
}
"""Queries whose truth is that there is nothing."""


def test_every_query_of_the_dashboards(place: Place) -> None:
    c, d = place.calls, place.commands
    r, web, v2 = place.rate, ("shop", "web"), ("shop", "catalogue-v2")
    who, source = ("destination_workload_namespace", "destination_workload"), ("source_workload_namespace", "source_workload")  # fmt: skip
    served = {web: r, ("shop", "cart"): r, ("shop", "payments"): r, ("shop", "catalogue"): r / 2, v2: r / 2}
    truth: dict[tuple[str, int], tuple[tuple[str, ...], dict[tuple[str, ...], float]]] = {
        ("Requests", 0): (who, served),
        ("Failed share", 0): (who, {v2: 0.1, web: 0.0, ("shop", "cart"): 0.0}),
        ("Connections opened", 0): (who, {web: r, ("shop", "cart"): r, ("shop", "redis"): r}),
        ("Workloads", 0): (who, served),
        ("In, by client", 0): (source, {("load", "generator"): r, web: 3 * r, ("shop", "payments"): 0.0}),
        ("Out, by server", 0): (who, {**served, ("", "api.bank.example"): r}),
        ("In, by status", 0): (("http_response_status_code",), {("200",): 4 * r - r / 20, ("500",): r / 20}),
        ("In, by route", 0): (("http_route",), {("/orders/*",): r, ("/",): 3 * r}),
        ("Version against version: failed share", 0): (("destination_service_name", "destination_canonical_revision"), {("catalogue", "v1"): 0.0, ("catalogue", "v2"): 0.1}),
        ("Calls", 0): (who, {("calls", "answerer"): c}),
        ("Failed share of calls", 0): (who, {("calls", "answerer"): 0.1}),
        ("Calls, by method", 0): (("rpc_method",), {("sidelight.test.Interop/Unary",): 0.9 * c, ("sidelight.test.Interop/Status",): 0.1 * c}),
        ("Calls, by status", 0): (("rpc_status_code",), {("OK",): 0.9 * c, ("UNAVAILABLE",): 0.1 * c}),
        ("Messages", 0): (("rpc_method", "direction"), {("sidelight.test.Interop/Unary", "receive"): 0.9 * c}),
        ("Out, failed share of calls", 0): (who, {("calls", "answerer"): 0.1}),
        ("Commands", 0): ((*who, "db_system_name"), {("shop", "redis", "redis"): d + r}),
        ("Failed share of commands", 0): (who, {("shop", "redis"): 0.2 * d / (d + r)}),
        ("Commands, by name", 0): (("db_operation_name",), {("GET",): 0.8 * d, ("INCR",): 0.2 * d + r}),
        ("Answers that say something", 0): (("db_response_status_code",), {("ERR",): 0.2 * d}),
        ("Out, by data store", 0): ((*who, "db_system_name"), {("shop", "redis", "redis"): d + r}),
        ("Coverage", 0): (("protocol", "outcome", "reason"), {("gRPC", "named", ""): 2 * c}),
        ("Edges", 0): ((*source, *who), {(*web, "shop", "cart"): r, (*web, "shop", "catalogue-v2"): r / 2, ("load", "generator", *web): r}),
        ("Failed attempts", 0): ((*source, *who, "reason"), {("load", "generator", "shop", "redis", "refused"): r}),
        ("Failed share of attempts", 0): (source, {("load", "generator"): 0.5, web: 0.0}),
        ("Look-ups", 0): (("dns_response_code",), {("NOERROR",): 6 * r, ("NXDOMAIN",): 2 * r}),
        ("Connections to the outside", 0): ((*source, "destination_workload"), {("shop", "payments", "api.bank.example"): r}),
        ("Requests to the outside", 0): (("destination_workload", "http_response_status_code"), {("api.bank.example", "200"): r}),
        ("Staleness of names", 0): ((), {(): 0.0}),
        ("Shed", 0): ((), {(): 0.0}),
    }  # fmt: skip
    rows, wrong, asked = [], [], set()
    for name, (_, panels) in grafana.DASHBOARDS.items():
        for panel in panels:
            for number, query in enumerate(panel.queries):
                expected = truth.get((panel.title, number))
                labels = expected[0] if expected else ()
                got = place.values(query.expr, *labels)
                if (panel.title, number) in EMPTY:
                    ok, said = not got, EMPTY[panel.title, number]
                elif expected is None:
                    ok, said = bool(got), f"{len(got)} series" if labels else "answered"
                else:
                    asked.add((panel.title, number))
                    ok = all(about(value, got.get(key, -1.0 if value else 0.0)) for key, value in expected[1].items())
                    said = ", ".join(
                        f"{'/'.join(key)} {value:.3g} is {got.get(key, float('nan')):.3g}"
                        for key, value in expected[1].items()
                    )
                rows.append(f"{'ok   ' if ok else 'WRONG'} {name:12} {panel.title:40} {said}")
                if not ok:
                    wrong.append((panel.title, got))
    print("\n".join(rows))
    assert not wrong
    assert asked == set(truth), "a truth without its panel"


def test_the_rules_say_the_same(place: Place) -> None:
    v2 = {"destination_workload_namespace": "shop", "destination_workload": "catalogue-v2"}
    for file in ("recording.yaml", "alerts.yaml"):
        for group in yaml.safe_load((ROOT / "daemonset" / "rules" / file).read_text())["groups"]:
            for rule in group["rules"]:
                # recorded names are not there: Prometheus has not run the rules, so they are put in by hand
                expr = re.sub(r"workload:[a-z_:0-9]+", lambda match: f"({recorded()[match[0]]})", rule["expr"])
                expr = re.sub(r"workload:[a-z_:0-9]+", lambda match: f"({recorded()[match[0]]})", expr)
                got = place.ask(expr)
                name = rule.get("record") or rule["alert"]
                firing = {"SidelightErrorBudgetBurnsFast", "SidelightErrorBudgetBurns", "SidelightConnectionsFail",
                          "SidelightCallsErrorBudgetBurnsFast", "SidelightCallsErrorBudgetBurns", "SidelightDataStoreFails"}  # fmt: skip
                assert bool(got) == ("record" in rule or name in firing), (name, got)
                if "http_failed:ratio" in name:
                    value = next(float(r["value"][1]) for r in got if v2.items() <= r["metric"].items())
                    assert abs(value - 0.1) < 0.06, name


def recorded() -> dict[str, str]:
    groups = yaml.safe_load((ROOT / "daemonset" / "rules" / "recording.yaml").read_text())["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def test_flagger_and_argo_templates_of_the_docs(place: Place) -> None:
    documents = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "canaries.md").read_text().split("# Thresholds on single figures")[1], re.S)]  # fmt: skip
    flagger = {d["metadata"]["name"]: d["spec"]["query"] for d in documents if d["kind"] == "MetricTemplate"}

    def verdict(query: str, **values: str) -> float:
        for name, value in values.items():
            query = re.sub(r"\{\{ ?(args\.)?" + name + r" ?\}\}", value, query)
        result = place.ask(query)
        assert len(result) == 1, (query, result)
        return float(result[0]["value"][1])

    bad = {"namespace": "shop", "target": "catalogue-v2", "interval": "2m"}
    good = {**bad, "target": "catalogue"}
    assert abs(verdict(flagger["sidelight-success-rate"], **bad) - 90) < 6
    calls = {"namespace": "calls", "target": "answerer", "interval": "2m"}
    assert abs(verdict(flagger["sidelight-call-success-rate"], **calls) - 90) < 6
    assert 0 < verdict(flagger["sidelight-call-latency-p99"], **calls) < 1000
    assert verdict(flagger["sidelight-success-rate"], **good) == 100
    assert 0 < verdict(flagger["sidelight-latency-p99"], **good) < 1000
    assert verdict(flagger["sidelight-connections-failed"], namespace="shop", target="web", interval="2m") == 0
    assert (
        abs(verdict(flagger["sidelight-connections-failed"], namespace="load", target="generator", interval="2m") - 50)
        < 8
    )
    argo = next(d for d in documents if d["kind"] == "AnalysisTemplate")["spec"]["metrics"]
    success, latency = (metric["provider"]["prometheus"]["query"] for metric in argo)
    assert abs(verdict(success, namespace="shop", service="catalogue", version="v2") - 0.9) < 0.06
    assert verdict(success, namespace="shop", service="catalogue", version="v1") == 1
    assert 0 < verdict(latency, namespace="shop", service="catalogue", version="v2") < 1
    # Flagger's built-in checks, with the Istio family
    target = 'reporter="destination",destination_workload_namespace="shop",destination_workload=~"catalogue-v2"'
    rate = f"sum(rate(istio_requests_total{{{target}}}[1m]))"
    built_in = f'sum(rate(istio_requests_total{{{target},response_code!~"5.*"}}[1m])) / {rate} * 100'
    assert abs(verdict(built_in) - 90) < 6
    assert 0 < verdict(f"histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{{{target}}}[1m])) by (le))") < 1000  # fmt: skip


def test_kialis_graph_health_and_metrics(place: Place) -> None:
    """Its questions, by what contracts say of them: three for requests, three for TCP, response times, health."""
    r = place.rate
    requests = f"{KIALI_BY},request_protocol,response_code,grpc_response_status,response_flags"

    def graph(metric: str, selector: str, by: str) -> list[dict[str, Any]]:
        rows = place.ask(f"sum(rate({metric}{{{selector}}} [1m])) by ({by}) > 0")
        for row in rows:
            # Kiali skips a series that lacks one; an absent grpc_response_status is as in Istio's own
            missing = [
                label for label in by.split(",") if label not in row["metric"] and label != "grpc_response_status"
            ]
            assert not missing, (missing, row)
            assert row["metric"]["source_cluster"] in ("prod", "unknown")
            if row["metric"]["destination_workload_namespace"] != "unknown":
                assert row["metric"]["destination_cluster"] == "prod"
        return rows

    inside = graph("istio_requests_total", 'reporter="source",source_workload_namespace="shop"', requests)
    pairs: dict[tuple[str, str], float] = {}
    for row in inside:
        key = (row["metric"]["source_workload"], row["metric"]["destination_workload"])
        pairs[key] = pairs.get(key, 0.0) + float(row["value"][1])
    assert (
        about(r, pairs["web", "cart"])
        and about(r / 2, pairs["web", "catalogue"])
        and about(r / 2, pairs["web", "catalogue-v2"])
    )
    outside = [row for row in inside if row["metric"]["source_workload"] == "payments"]
    assert outside and all(row["metric"]["destination_service_name"] == "bank" for row in outside)
    entering = graph("istio_requests_total", 'reporter="source",source_workload_namespace!="shop",source_workload!="unknown",destination_service_namespace="shop"', requests)  # fmt: skip
    assert about(r, sum(float(row["value"][1]) for row in entering))
    assert {row["metric"]["destination_service"] for row in entering} == {"web.shop.svc.cluster.local"}
    assert not graph("istio_requests_total", 'reporter="destination",source_workload="unknown",destination_workload_namespace="shop"', requests)  # fmt: skip
    tcp = graph("istio_tcp_sent_bytes_total", 'reporter="source",source_workload_namespace="shop"', f"{KIALI_BY},response_flags")  # fmt: skip
    assert {(row["metric"]["source_workload"], row["metric"]["destination_workload"]) for row in tcp} >= {
        ("cart", "redis")
    }
    times = place.ask(
        'histogram_quantile(0.95, sum(rate(istio_request_duration_milliseconds_bucket{reporter="source",source_workload_namespace="shop",response_code=~"2[0-9]{2}$"}[1m])) '
        "by (le,source_workload_namespace,source_workload,source_app,source_version,destination_service_namespace,destination_service_name,"
        "destination_workload_namespace,destination_workload,destination_app,destination_version)) > 0"
    )
    assert {row["metric"]["destination_app"] for row in times} >= {"cart", "catalogue"}
    health = place.ask('rate(istio_requests_total{destination_workload_namespace="shop",destination_workload="catalogue-v2",destination_cluster="prod"}[1m]) > 0')  # fmt: skip
    codes = {row["metric"]["response_code"] for row in health}
    assert codes == {"200", "500"}
    average = place.values('round(sum(rate(istio_request_duration_milliseconds_sum{reporter="destination",destination_workload="web"}[1m])) / sum(rate(istio_request_duration_milliseconds_count{reporter="destination",destination_workload="web"}[1m])), 0.001)')  # fmt: skip
    assert 0 < average[()] < 1000


def test_tempo_names_hubble_names_and_clean_metrics(place: Place) -> None:
    r = place.rate
    graph = place.values("sum by (client, server) (rate(traces_service_graph_request_total[1m]))", "client", "server")
    assert about(r, graph["shop/web", "shop/cart"]) and about(r, graph["load/generator", "shop/web"])
    failed = place.values("sum by (client, server) (rate(traces_service_graph_request_failed_total[1m]))", "client", "server")  # fmt: skip
    assert about(r / 20, failed["shop/web", "shop/catalogue-v2"], 0.6)
    for side in ("server", "client"):
        assert place.ask(f"histogram_quantile(0.9, sum(rate(traces_service_graph_request_{side}_seconds_bucket[1m])) by (le, client, server)) > 0")  # fmt: skip
    hubble = place.values('sum by (status) (rate(hubble_http_requests_total{reporter="server", protocol="HTTP/1.1"}[1m]))', "status")  # fmt: skip
    assert about(4 * r - r / 20, hubble["200",])
    assert place.values("sum(rate(hubble_drop_total[1m]))")[()] > 0
    text = "\n".join(line for line in place.agent.get("/metrics").decode().splitlines() if "istio_" not in line) + "\n"
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not place.agent.broken_laws()
