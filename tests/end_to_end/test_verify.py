"""`sidelight verify` on the test cluster: counts beside the servers' own, agents beside a real Prometheus, and the controllers' clients."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sidelight.analysis.comparison import Settings, rows_of
from sidelight.analysis.judge import judge
from sidelight.cli.client import Client, open_channel
from sidelight.cli.demo import free_port
from sidelight.cli.demo_canary import deploy, own_counts
from sidelight.cli.verify import agents
from sidelight.exporter.verify.arms import arms_of
from sidelight.exporter.verify.prometheus import Api, Prometheus
from sidelight.exporter.verify.trial import Trial
from tests.cluster.cluster import Cluster, cluster
from tests.end_to_end.test_kubernetes import listening
from tests.observed import eventually
from tests.running import SIDELIGHT, Running

LOAD = Path(__file__).resolve().parents[1] / "cluster" / "canary_load.py"
ARMS = arms_of("shop/catalogue", "version=v1", "version=v2")
TOKEN = "a token of sixteen and more"
BAD = [{"errors": 0.08}, {"errors": 0.08, "resets": 0.02}, {"errors": 0.08}]


@dataclass
class Place:
    agents: list[Running]
    servers: list[str]
    found: Cluster
    pods: dict[str, Any]
    prometheus: int
    scratch: Path

    def load(self, rate: float, seconds: float) -> subprocess.Popen[bytes]:
        return self.found.python(self.pods["load"], LOAD, "10.96.0.12", 80, rate, seconds)

    def ask(self, rate: float, seconds: float) -> None:
        self.load(rate, seconds).wait()

    def connected(self) -> list[str]:
        return [part for server in self.servers for part in ("--server", server)]

    def verify(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [*SIDELIGHT, "verify", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def compare(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        arms = ("shop/catalogue", "--baseline", "version=v1", "--canary", "version=v2", "--warm-up", "0s")
        return self.verify(*arms, *arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A node with an agent each, two of v1 and three bad ones of v2 over both nodes, and a Prometheus."""
    scratch = tmp_path_factory.mktemp("verify")
    (scratch / "token").write_text(TOKEN + "\n")
    first = Running("--node-name", "node-1", "--verify-token-file", str(scratch / "token"))
    started = [first]
    process = None
    try:
        with cluster(first.cgroup, scratch, nodes=2) as found:
            first.observed = found.cgroup / "node-1"
            started.append(Running("--node-name", "node-2", observed=found.cgroup / "node-2"))
            servers = []
            for agent in started:
                servers.append(f"127.0.0.1:{free_port()}")
                agent.arguments += ("--hubble-listen", servers[-1], "--hubble-plaintext", "--kubeconfig", str(found.api.kubeconfig()))  # fmt: skip
                agent.start()
            port = free_port()
            targets = [f"127.0.0.1:{agent.port}" for agent in started]
            (scratch / "prometheus.yml").write_text(json.dumps({
                "global": {"scrape_interval": "1s"},
                "scrape_configs": [{"job_name": "sidelight", "static_configs": [{"targets": targets}]}],
            }))  # fmt: skip
            process = subprocess.Popen(
                ["prometheus", f"--config.file={scratch}/prometheus.yml", f"--storage.tsdb.path={scratch}/data", f"--web.listen-address=127.0.0.1:{port}"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            pods = deploy(found, BAD, scratch)
            for name, pod in pods.items():
                if name != "load":
                    listening(found, pod, 8080)
            yield Place(started, servers, found, pods, port, scratch)
    finally:
        if process:
            process.terminate()
            process.wait()
        for agent in started[::-1]:
            agent.close()


def totals(document: dict[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    """Of each metric: trials and events of the baseline, of the canary."""
    found = {}
    for metric, rows in rows_of(document):
        sums = [int(rows[rows[:, 1] == arm, column].sum()) for arm in (0, 1) for column in (4, 5)]
        found[metric["name"]] = (sums[0], sums[1], sums[2], sums[3])
    return found


def test_agents_and_prometheus_have_the_same_integers(place: Place) -> None:
    place.ask(100, 6)  # a history, by which both choose what is slow
    time.sleep(3)
    settings = Settings(interval_s=1.0, warm_up_s=0.0)
    client = Client([(server, open_channel(server, {})) for server in place.servers])
    api = Api(f"http://127.0.0.1:{place.prometheus}")
    try:
        one = Trial(ARMS, agents(client, ARMS, settings), settings, time.time)
        one.start()
        start = time.time()
        load = place.load(140, 8)
        while load.poll() is None:
            time.sleep(1)
            one.look()
        one.look(last=True)
        time.sleep(4)
        other = Trial(ARMS, Prometheus(api, ARMS, 1.0, since=start, until=time.time()), settings, time.time)
        other.start()
        other.look()
    finally:
        client.close()
    ours, theirs = totals(one.document()), totals(other.document())
    for metric in one.document()["metrics"]:
        assert metric["edge_s"] == next(m["edge_s"] for m in other.document()["metrics"] if m["name"] == metric["name"])
    assert ours == theirs
    assert {"http.errors", "http.slow", "http.tail", "tcp.resets", "tcp.refused"} <= set(ours)
    assert sum(ours["http.errors"][::2]) == sum(ours["tcp.resets"][::2]) > 1000
    assert one.verdict and one.verdict.pods_canary == 3
    assert one.verdict.verdict == "fail"


def test_the_command_line(place: Place, tmp_path: Path) -> None:
    kept, report = tmp_path / "kept.json", tmp_path / "report.html"
    load = place.load(120, 60)
    try:
        said = place.compare(
            *place.connected(), "--interval", "1s", "--keep", str(kept), "--report", str(report), "-o", "json"
        )
    finally:
        place.found.processes.stop(load)
    assert said.returncode == 1, said.stderr
    document = json.loads(said.stdout)
    assert document["verdict"] == "fail" and document["fail"] and not document["pass"]
    failing = next(m for m in document["metrics"] if m["name"] == "http.errors")
    assert failing["verdict"] == "fail" and failing["low"] > 0.02
    again = place.verify("--replay", str(kept))
    assert again.returncode == 1 and again.stdout.splitlines()[2].startswith("FAIL  The canary is worse")
    assert place.verify("--replay", str(kept), "-o", "json").stdout == said.stdout
    suite = ET.fromstring(place.verify("--replay", str(kept), "-o", "junit").stdout)
    assert int(suite.get("failures", "0")) >= 2
    page = report.read_text()
    assert "FAIL" in page and page.count("<svg") >= 5 and "<script" not in page


def test_bad_usage_is_one_line(place: Place, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    for arguments in (
        ("shop/catalogue",),
        ("shop/catalogue", "--baseline", "v1", "--canary", "version=v2"),
        ("shop/catalogue", "--baseline", "version=v1", "--canary", "version=v1"),
        ("shop/catalogue", "--baseline", "version=v1", "--canary", "version=v2", "--for", "soon"),
        ("shop/catalogue", "--baseline", "version=v1", "--canary", "version=v2", "--tolerance", "speed=x2"),
        ("shop/catalogue", "--baseline", "version=v1", "--canary", "version=v2", "--prometheus", "http://127.0.0.1:9", "--since", "1m"),
        ("shop/catalogue", "--baseline", "version=v1", "--canary", "version=v2", "--report", "nowhere/report.html"),
        ("--replay", str(broken)),
        ("--serve", "0.0.0.0:0", "--prometheus", "http://127.0.0.1:9"),
    ):  # fmt: skip
        said = place.verify(*arguments)
        assert said.returncode == 2, (arguments, said)
        assert said.stderr.startswith("sidelight: ") and len(said.stderr.splitlines()) == 1, (arguments, said.stderr)


def test_nothing_to_compare_is_inconclusive(place: Place) -> None:
    said = place.compare(*place.connected(), "--interval", "1s", "--for", "3s")
    assert said.returncode == 3, said.stderr
    assert "no traffic to the canary" in said.stdout


def post(url: str, document: Any = None, **headers: str) -> tuple[int, Any]:
    """As controllers' HTTP clients do."""
    body = json.dumps(document).encode() if document is not None else None
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


CANARIES = (
    (Path(__file__).resolve().parents[2] / "docs" / "canaries.md")
    .read_text()
    .split("# Thresholds on single figures")[0]
)
BLOCKS = {language: re.findall(rf"```{language}\n(.*?)```", CANARIES, re.S) for language in ("yaml", "json")}


def here(url: str, port: int) -> tuple[str, dict[str, str]]:
    """A template's URL at this machine, and what Go's client makes of a user in it."""
    parts = urllib.parse.urlsplit(url.replace("TOKEN", urllib.parse.quote(TOKEN)))
    found = parts._replace(netloc=f"127.0.0.1:{port}").geturl()
    if not parts.password:
        return found, {}
    user = f"{parts.username}:{urllib.parse.unquote(parts.password)}"
    return found, {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


def argo(port: int, rollout: str, count: int) -> str:
    """An AnalysisRun of the page's template. Its conditions hold, or neither does: Inconclusive, and measured again; not 2xx: an Error."""
    template = next(d for d in map(yaml.safe_load, BLOCKS["yaml"]) if d.get("kind") == "AnalysisTemplate")
    arguments = {
        "namespace": "shop",
        "service": "catalogue",
        "baseline": "v1",
        "canary": "v2",
        "rollout": rollout,
        "token": TOKEN,
    }
    (metric,) = template["spec"]["metrics"]
    assert {a["name"] for a in template["spec"]["args"]} == arguments.keys() and metric["provider"]["web"][
        "jsonPath"
    ] == "{$}"

    def filled(text: str) -> str:
        return re.sub(r"\{\{args\.(\w+)\}\}", lambda match: arguments[match[1]], text)

    url, _ = here(filled(metric["provider"]["web"]["url"]).replace("warm-up=30s", "warm-up=0s&interval=1s"), port)
    headers = {header["key"]: filled(header["value"]) for header in metric["provider"]["web"]["headers"]}
    for _ in range(count):
        status, text = post(url, **headers)
        if not 200 <= status < 300:
            return "Error"
        result = json.loads(text)
        if result[metric["failureCondition"].removeprefix("result.")]:
            return "Failed"
        if result[metric["successCondition"].removeprefix("result.")]:
            return "Successful"
        time.sleep(1)
    return "Inconclusive"


def flagger(port: int, count: int) -> str:
    """Each interval the page's webhooks in Flagger's order: rollback (200: now), rollout (else a failed check), then confirm-promotion."""
    hooks = {hook["type"]: hook for d in map(yaml.safe_load, BLOCKS["yaml"]) for hook in d.get("webhooks", ())}

    def ask(kind: str) -> int:
        url, headers = here(hooks[kind]["url"], port)
        metadata = {
            **hooks[kind]["metadata"],
            "baseline": "version=v1",
            "canary": "version=v2",
            "interval": "1s",
            "warm-up": "0s",
        }
        payload = {
            "name": "catalogue",
            "namespace": "shop",
            "phase": "Progressing",
            "checksum": "85d557f47b",
            "canaryWeight": 50,
            "metadata": metadata,
        }
        return post(url, payload, **headers)[0]

    for _ in range(count):
        if ask("rollback") == 200:
            return "rolled back"
        assert ask("rollout") in (200, 412)
        if ask("confirm-promotion") == 200:
            return "promoted"
        time.sleep(1)
    return "waits"


def test_controllers_ask_the_agent(place: Place) -> None:
    """The first node's agent has one of v1 and pods of v2: its own verdict."""
    url = f"http://127.0.0.1:{place.agents[0].port}/verify"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    basic = {"Authorization": "Basic " + base64.b64encode(f"flagger:{TOKEN}".encode()).decode()}
    query = "?target=shop/catalogue&baseline=version=v1&canary=version=v2&interval=1s&warm-up=0s&id=1"
    assert post(url + query)[0] == 401
    assert post(url + query, Authorization="Bearer wrong")[0] == 401
    assert post(url + "?target=shop/catalogue", **bearer)[0] == 400
    assert post(url + query + "&speed=1", **bearer)[0] == 400
    assert post(url + "/rollback", [1], **basic)[0] == 400
    port = place.agents[0].port
    assert argo(port, "a", 1) == "Inconclusive"
    load = place.load(160, 90)
    try:
        assert argo(port, "a", 60) == "Failed"
        assert flagger(port, 60) == "rolled back"
    finally:
        place.found.processes.stop(load)
    assert argo(port, "a", 1) == "Failed", "a verdict is kept when its trial is over"


def test_in_front_of_a_prometheus(place: Place) -> None:
    """`verify --serve`, and a Spinnaker webhook stage that polls it."""
    port = free_port()
    process = subprocess.Popen(
        [*SIDELIGHT, "verify", "--serve", f"127.0.0.1:{port}", "--prometheus", f"http://127.0.0.1:{place.prometheus}",
         "--token-file", str(place.scratch / "token")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        eventually(lambda: post_or_none(f"http://127.0.0.1:{port}/healthz"), 20, "it answers")
        load = place.load(160, 90)
        try:
            status = spinnaker(port, 60)
        finally:
            place.found.processes.stop(load)
        assert status == "TERMINAL"
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0


def post_or_none(url: str) -> bool:
    try:
        return post(url)[0] == 200
    except OSError:
        return False


def spinnaker(port: int, count: int) -> str:
    """The page's webhook stage: it polls by GET and compares what statusJsonPath finds."""
    (stage,) = map(json.loads, BLOCKS["json"])
    assert stage["method"] == "GET" and stage["statusUrlResolution"] == "getMethod"
    url, _ = here(stage["url"].replace("${execution.id}", "01") + "&interval=1s&warm-up=0s", port)
    headers = {name: value.replace("${token}", TOKEN) for name, value in stage["customHeaders"].items()}
    for _ in range(count):
        status, text = post(url, **headers)
        assert status == 200
        document = json.loads(text)
        assert isinstance(document[stage["progressJsonPath"].removeprefix("$.")], str)
        verdict = document[stage["statusJsonPath"].removeprefix("$.")]
        for name, outcome in (("successStatuses", "SUCCEEDED"), ("terminalStatuses", "TERMINAL")):
            if verdict in stage[name].split(","):
                return outcome
        time.sleep(1)
    return "RUNNING"


def test_the_pages_manifests_are_valid() -> None:
    kinds = [
        document
        for document in map(yaml.safe_load, BLOCKS["yaml"])
        if document.get("kind") in ("Deployment", "Service")
    ]
    assert len(kinds) == 2
    for document in kinds:
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_policies_from_a_prometheus(place: Place) -> None:
    """Its edges, by workload, are those of the flows."""
    said = subprocess.run(
        [*SIDELIGHT, "policy", "suggest", "shop", "--kubeconfig", str(place.found.api.kubeconfig()), "--prometheus", f"http://127.0.0.1:{place.prometheus}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    documents = {d["metadata"]["name"]: d for d in yaml.safe_load_all(said.stdout) if d}
    assert {"sidelight-catalogue", "sidelight-catalogue-v2"} <= documents.keys()
    (rule,) = documents["sidelight-catalogue"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}] and rule["from"][0]["podSelector"] == {
        "matchLabels": {"app": "generator"}
    }


def test_all_requests_are_in_the_comparison(place: Place) -> None:
    """The last test: it ends the servers. One comparison over both agents beside what the servers counted since it began."""
    settings = Settings(interval_s=1.0, warm_up_s=0.0)
    client = Client([(server, open_channel(server, {})) for server in place.servers])
    before = {}
    try:
        trial = Trial(ARMS, agents(client, ARMS, settings), settings, time.time)
        trial.start()
        # what the servers had before: by the agents' books, which are the servers' own counts (test_servers.py)
        for version in ("v1", "v2"):
            before[version] = sum(
                int(agent.total("http_server_request_duration_seconds_count", destination_canonical_revision=version))
                for agent in place.agents
            )
        place.ask(150, 8)
        time.sleep(1)
        trial.look(last=True)
        verdict = judge(trial.document())
    finally:
        client.close()
    theirs = own_counts(place.found, place.pods, place.scratch)
    assert verdict.n_baseline == theirs["baseline"] - before["v1"] > 0
    assert verdict.n_canary == theirs["canary"] - before["v2"] > 0
