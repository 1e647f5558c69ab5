"""The agent and the command line as people use them."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sidelight.agent.loader import DEFAULT_BPFFS
from sidelight.cli.demo import free_port
from tests.observed import eventually
from tests.running import SIDELIGHT, Running, running

SERVER = Path(__file__).parent.parent / "peers" / "server.py"


def served(agent: Running, tmp_path: Path, *paths: str) -> int:
    """An h11 server in the agent's cgroup, asked for the paths by curl."""
    port = free_port()
    agent.processes.start("shop", [sys.executable, "-I", str(SERVER), "127.0.0.1", str(port), str(tmp_path / "r")])
    eventually(lambda: subprocess.run(["ss", "-Htln", f"sport = :{port}"], capture_output=True, text=True).stdout)
    for path in paths:
        url = f"http://127.0.0.1:{port}{path}"
        agent.processes.start("curl", ["curl", "-s", "-o", "/dev/null", "--path-as-is", url]).wait()
    return port


def test_flows_metrics_and_every_output(tmp_path: Path) -> None:
    with running("--metrics", "http", "--metrics", "tcp", "--metrics", "istio", "--metrics", "servicegraph", "--metrics", "hubble") as agent:  # fmt: skip
        port = served(agent, tmp_path, "/len/10?password=hunter2", "/status/503", "/slow/700", "/drop")
        eventually(lambda: agent.total("http_server_request_duration_seconds_count") == 4)
        assert agent.total("http_server_request_duration_seconds_count", error_type="no_response") == 1
        assert agent.total("http_client_request_duration_seconds_count", http_response_status_code="503") == 1
        assert agent.total("istio_requests_total", response_code="503", reporter="destination") == 1
        assert agent.total("istio_requests_total", reporter="source") == 4
        assert agent.total("traces_service_graph_request_total") == 4
        assert agent.total("traces_service_graph_request_failed_total") == 2
        # Istio's own names are not promtool's taste (milliseconds)
        plain = b"".join(line for line in agent.get("/metrics").splitlines(True) if b"istio_" not in line)
        checked = subprocess.run(["promtool", "check", "metrics"], input=plain, capture_output=True)
        assert checked.returncode == 0, checked.stderr
        compressed = agent.get("/metrics", **{"Accept-Encoding": "gzip"})
        assert gzip.decompress(compressed).startswith(b"# HELP")
        from prometheus_client.openmetrics.parser import text_string_to_metric_families

        openmetrics = agent.get("/metrics", Accept="application/openmetrics-text").decode()
        families = list(text_string_to_metric_families(openmetrics))
        assert len(families) > 20

        everything = agent.cli("tail", "--since", "1m", "--no-follow", "-o", "json").stdout.splitlines()
        flows = [json.loads(line)["flow"] for line in everything]
        requests = [flow for flow in flows if flow["sidelight"]["kind"] == "request"]
        assert len(requests) == 8 and "hunter2" not in "".join(everything)
        failed = agent.cli("tail", "--since", "1m", "--no-follow", "--failed", "--role", "server").stdout
        assert failed.count("\n") == 2 and "503" in failed and "no response" in failed
        slow = agent.cli("tail", "--since", "1m", "--no-follow", "--slower", "500ms", "--to", f":{port}").stdout
        assert slow.count("/slow/700") == 2 and slow.count("\n") == 2
        assert agent.cli("tail", "curl", "--last", "1", "--path", "/len").stdout.count("\n") == 1
        assert agent.cli("tail", "nobody", "--since", "1m", "--no-follow").stdout == ""
        assert "server" in agent.cli("map").stdout and "flowchart" in agent.cli("map", "-o", "mermaid").stdout
        assert "4 seen" not in agent.cli("status").stdout  # both ends are observed: eight
        assert "8 seen" in agent.cli("status").stdout
        assert not agent.broken_laws()
        recording = tmp_path / "x.flows"
        assert agent.cli("record", str(recording), "--everything", "--seconds", "1").returncode == 0
        again = agent.cli("tail", "--file", str(recording), "-o", "json").stdout.splitlines()
        assert {json.loads(line)["flow"]["uuid"] for line in again} >= {flow["uuid"] for flow in flows}


def test_audits_hold_under_traffic(tmp_path: Path) -> None:
    """Counters are read one by one while the programs go on; a law is broken only if it held at no moment between the readings."""
    with running("--http-route", "/len/{n}") as agent:
        port = served(agent, tmp_path)
        load = "import http.client, sys\nfor n in range(3000):\n  c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n  c.request('GET', f'/len/{n % 50}'); c.getresponse().read(); c.close()"  # fmt: skip
        asking = agent.processes.start("load", [sys.executable, "-c", load, str(port)])
        audits = 0
        while asking.poll() is None:
            assert not agent.broken_laws()
            audits += 1
        assert audits > 1 and agent.total("http_server_request_duration_seconds_count") > 0
        assert not agent.broken_laws()


def test_hostile_heads_disturb_nothing(tmp_path: Path) -> None:
    with running() as agent:
        served(agent, tmp_path, "/len/1/\x1b[2J\x07", "/" + "p" * 8000, "/len/5")
        port = served(agent, tmp_path)
        for head in (
            b"GET /\xff\xfe\x00\x1b]0;x\x07 HTTP/1.1\r\nHost: \x1b[31m\r\n\r\n",
            b"\x00" * 5000,
            b"GET" + b" " * 9000,
        ):
            code = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.sendall({head!r}); s.shutdown(1); s.settimeout(3)\ntry: s.recv(100)\nexcept OSError: pass"  # fmt: skip
            agent.processes.start("raw", [sys.executable, "-c", code]).wait()
        out = eventually(
            lambda: (o := agent.cli("tail", "--since", "1m", "--no-follow").stdout).count("400") >= 2 and o
        )
        assert "\x1b" not in out and "\x07" not in out and "\x00" not in out
        labels = agent.get("/metrics").decode()
        assert "pppp" not in labels and "\x1b" not in labels
        assert not agent.broken_laws()


def test_second_agent_taken_port_and_bad_flags(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*SIDELIGHT, *arguments], capture_output=True, text=True, timeout=60)

    with running() as agent:
        second = run("agent", "--cgroup", str(agent.cgroup), "--instance", agent.instance, "--metrics-listen", "off")
        assert second.returncode == 2 and f"pid {agent.process.pid}" in second.stderr, second.stderr  # type: ignore[union-attr]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            other = f"{agent.instance}-b"
            bad = run("agent", "--cgroup", str(agent.cgroup), "--instance", other, "--metrics-listen", f"127.0.0.1:{taken.getsockname()[1]}")  # fmt: skip
            assert bad.returncode == 2 and "cannot listen" in bad.stderr
            run("unload", "--instance", other)
        for arguments, says in (
            (["agent", "--cgroup", "/tmp"], "not a cgroup2"),
            (["agent", "--ring-pages", "3"], "power of two"),
            (["agent", "--cgroup", str(agent.cgroup), "--kubeconfig", "/nowhere", "--instance", other], "Kubernetes: "),
            (["tail", "--nonsense"], "nonsense"),
            (["tail", "--slower", "fast"], "not a duration"),
            (["tail", "what:ever", "--instance", agent.instance], "unknown selector"),
            (["tail", "--file", "/etc/hosts"], "not a recording"),
            (["status", "--instance", "nobody-there"], "no agent answers"),
        ):
            done = run(*arguments)
            assert done.returncode == 2 and says in done.stderr, (arguments, done.stderr)
            assert done.stderr.count("\n") == 1, done.stderr
        assert agent.answers()
        assert not (DEFAULT_BPFFS / "sidelight" / other).exists(), "taken off when it cannot start"


def test_configuration_file_names_key_and_line(tmp_path: Path) -> None:
    for text, says in (
        ("interval: 1\nmetrics-listn: x\n", "line 2: metrics-listn: unknown key"),
        ("interval: [1]\n", "line 1: interval: want one value"),
        ("a: b: c\n", "line 1"),
        ("cidr-groups: {10.0.0.0/99: x}\n", "cidr-groups"),
    ):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        done = subprocess.run([*SIDELIGHT, "config", "check", str(path)], capture_output=True, text=True)
        assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_stop_leaves_the_programs_and_unload_removes_them(tmp_path: Path) -> None:
    agent = Running()
    try:
        agent.start()
        assert agent.kill(signal.SIGTERM) == 0
        pins = DEFAULT_BPFFS / "sidelight" / agent.instance
        assert (pins / "links").is_dir()
        agent.processes.start("curl", ["curl", "-s", "http://127.0.0.1:1/"]).wait()
        agent.start()
        eventually(lambda: agent.total("sidelight_tcp_connections_failed_total", reason="refused") == 1)
        agent.kill(signal.SIGTERM)
        assert agent.cli("unload").returncode == 0
        assert not pins.exists()
    finally:
        agent.close()


def test_demo_agrees_with_its_servers() -> None:
    done = subprocess.run([*SIDELIGHT, "demo", "--seconds", "4"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("exact") == 3 and "all hold" in done.stdout
