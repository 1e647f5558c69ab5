"""gRPC through a real agent: grpcio's interop cases, and every way in which they are read again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidelight.agent import bpf
from sidelight.agent.protocols import GRPC_CODES, GRPC_SERVER_ERRORS
from sidelight.cli.demo import free_port
from tests.end_to_end.test_apis import otlp_backend
from tests.observed import eventually
from tests.running import Running, flows_of, running

pytestmark = pytest.mark.skipif(not bpf.has_loop(), reason="a kernel before 5.17: HTTP/2 is not followed")
PEERS = Path(__file__).parent.parent / "peers"
SERVICE = "sidelight.test.Interop"
CASES = (
    "empty_unary=5", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "custom_metadata",
    "status_code_and_message", "special_status_message", "every_status", "unimplemented_method", "unimplemented_service",
    "cancel_after_begin", "cancel_after_first_response", "timeout_on_sleeping_server",
)  # fmt: skip
GROUPS = ("http", "rpc", "istio", "servicegraph", "hubble", "tcp")


class Place:
    """An agent, a grpcio server, and what its client saw of the cases."""

    def __init__(self, agent: Running, scratch: Path) -> None:
        self.agent, self.port, self.report = agent, free_port(), scratch / "report"
        command = [sys.executable, str(PEERS / "grpc_server.py"), "127.0.0.1", str(self.port), str(self.report)]
        agent.processes.start("backend", command)
        eventually(self.report.exists)
        self.truth: Counter[tuple[str, str]] = Counter()
        for key, n in self.ask(*CASES).items():
            method, _, code = key.partition(" ")
            self.truth[method, code] = n
        eventually(lambda: self.calls("server") == sum(self.truth.values()))

    def ask(self, *cases: str) -> dict[str, int]:
        command = [sys.executable, str(PEERS / "grpc_client.py"), f"127.0.0.1:{self.port}", *cases]
        said = self.agent.processes.start("frontend", command, stdout=subprocess.PIPE).communicate(timeout=120)[0]
        found: dict[str, int] = json.loads(said)
        return found

    def calls(self, side: str, **labels: str) -> int:
        return int(self.agent.total(f"rpc_{side}_call_duration_seconds_count", **labels))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    metrics = [argument for group in GROUPS for argument in ("--metrics", group)]
    with running(*metrics, "--event-rate", "100000") as agent:
        yield Place(agent, tmp_path_factory.mktemp("calls"))


def test_status_and_count_of_every_case_at_both_ends(place: Place) -> None:
    for side in ("client", "server"):
        found: Counter[tuple[str, str]] = Counter()
        for labels, value in place.agent.samples(f"rpc_{side}_call_duration_seconds_count"):
            assert labels["rpc_system_name"] == "grpc"
            code = labels.get("rpc_status_code", "")
            found[labels.get("rpc_method", ""), code] += int(value)
            wrong = code != "OK" if side == "client" else code in GRPC_SERVER_ERRORS
            assert labels.get("error_type", "") == (code if wrong else "")
        assert found == place.truth, side
    served = json.loads(place.report.read_text())
    by_method = Counter(dict.fromkeys(served, 0))
    for (method, _), n in place.truth.items():
        by_method[method.rpartition("/")[2]] += n
    assert all(by_method[method] == n for method, n in served.items()), "the server's own count"
    assert not place.agent.broken_laws()


def test_messages_and_the_first_response(place: Place) -> None:
    def messages(method: str, reporter: str, direction: str) -> float:
        return place.agent.total("sidelight_rpc_messages_total", rpc_method=f"{SERVICE}/{method}", reporter=reporter, direction=direction)  # fmt: skip

    for reporter, asks, answers in (("source", "transmit", "receive"), ("destination", "receive", "transmit")):
        assert messages("Unary", reporter, asks) == messages("Unary", reporter, answers) == 7
        assert messages("Spread", reporter, asks) == 1 and messages("Spread", reporter, answers) == 4
        assert messages("Collect", reporter, asks) == 4 and messages("Collect", reporter, answers) == 1
        assert messages("Echo", reporter, asks) == messages("Echo", reporter, answers) == 5
    assert (
        place.agent.total("sidelight_rpc_first_responses_total", rpc_method=f"{SERVICE}/Echo", reporter="source") == 2
    )
    assert 0 < place.agent.total("sidelight_rpc_first_response_seconds_total", rpc_method=f"{SERVICE}/Echo") < 5


def test_every_other_name(place: Place) -> None:
    codes: Counter[str] = Counter()
    for (_, code), n in place.truth.items():
        codes[str(GRPC_CODES.index(code))] += n
    for reporter in ("source", "destination"):
        found: Counter[str] = Counter()
        for labels, value in place.agent.samples("istio_requests_total", reporter=reporter, request_protocol="grpc"):
            assert labels["response_code"] == "200"
            found[labels["grpc_response_status"]] += int(value)
        assert found == codes
    total = sum(place.truth.values())
    failed = sum(n for (_, code), n in place.truth.items() if code in GRPC_SERVER_ERRORS)
    assert place.agent.total("traces_service_graph_request_total") == total
    assert place.agent.total("traces_service_graph_request_failed_total") == failed
    assert (
        place.agent.total("traces_spanmetrics_calls_total", span_kind="SPAN_KIND_SERVER", span_name=f"{SERVICE}/Unary")
        == 7
    )
    assert place.agent.total("hubble_http_requests_total", protocol="HTTP/2", status="200", reporter="server") == total
    assert place.agent.total("sidelight_exchanges_total", protocol="gRPC", outcome="named") == 2 * total
    assert place.agent.total("http_server_request_duration_seconds_count", network_protocol_version="2") == 0


def test_flows_and_the_command_line(place: Place) -> None:
    flows = [flow for flow in flows_of(place.agent, "--role", "server") if "l7" in flow]
    assert len(flows) == sum(place.truth.values())
    one = next(flow for flow in flows if flow["sidelight"]["operation"] == f"{SERVICE}/Sleep")
    assert one["l7"]["http"]["protocol"] == "HTTP/2" and one["l7"]["http"]["method"] == "POST"
    assert one["l7"]["http"]["url"].endswith(f"/{SERVICE}/Sleep")
    assert {"key": "grpc-status", "value": "4"} in one["l7"]["http"]["headers"]

    def lines(*arguments: str) -> list[str]:
        return place.agent.cli("tail", "--since", "5m", "--no-follow", "--role", "server", *arguments).stdout.splitlines()  # fmt: skip

    assert len(lines("--status", "UNAVAILABLE")) == 1 and "UNAVAILABLE" in lines("--status", "UNAVAILABLE")[0]
    failed = sum(n for (_, code), n in place.truth.items() if code in GRPC_SERVER_ERRORS)
    assert len(lines("--failed")) == failed
    assert "both at once" in place.agent.cli("tail", "--status", "404", "--status", "OK").stderr
    status = place.agent.cli("status").stdout
    assert f"gRPC       {2 * sum(place.truth.values())} named" in status


def test_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the RPC conventions, each under the trace that its call names."""
    trace = "4bf92f3577b34da6a3ce929d0e0e47"
    with otlp_backend(monkeypatch) as (backend, _):
        with running("--otlp", "--event-rate", "100000") as agent:
            place = Place(agent, tmp_path)
            parents = [f"00-{trace}{n:02x}-00f067aa0ba902b7-01" for n in range(1, 4)]
            code = f"""
import grpc
call = grpc.insecure_channel("127.0.0.1:{place.port}").unary_unary("/{SERVICE}/Unary")
for parent in {parents!r}: call(b"10", metadata=(("traceparent", parent),))
"""
            agent.processes.start("frontend", [sys.executable, "-c", code]).wait(60)
            total = 2 * (sum(place.truth.values()) + 3)
            eventually(lambda: len(backend.spans) == total, 30, lambda: (len(backend.spans), total))
        names: Counter[str] = Counter(span.name for _, span in backend.spans)
        assert names[f"{SERVICE}/Unary"] == 2 * (7 + 3)
        for _, span in backend.spans:
            found = {a.key: a.value.string_value for a in span.attributes}
            assert found["rpc.system.name"] == "grpc" and found["rpc.method"] == span.name and found["rpc.status_code"]
            wrong = (
                found["rpc.status_code"] != "OK" if span.kind == 3 else found["rpc.status_code"] in GRPC_SERVER_ERRORS
            )
            assert (span.status.code == 2) == wrong and found.get("error.type", "") == (
                found["rpc.status_code"] if wrong else ""
            )
        for n in range(1, 4):
            client, served = sorted(
                (span for _, span in backend.spans if span.trace_id.hex() == f"{trace}{n:02x}"),
                key=lambda span: -span.kind,
            )
            assert client.parent_span_id.hex() == "00f067aa0ba902b7" and served.parent_span_id == client.span_id


def test_calls_that_go_on_are_a_gauge(place: Place) -> None:
    code = f"""
import grpc, threading, sys
hold = threading.Event()
def ask():
    yield b"1"
    hold.wait(60)
calls = [grpc.insecure_channel("127.0.0.1:{place.port}").stream_stream("/{SERVICE}/Echo")(ask()) for _ in range(3)]
for call in calls: next(call)
print("ready", flush=True)
sys.stdin.readline()
hold.set()
for call in calls: list(call)
"""
    held = place.agent.processes.start(
        "frontend", [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdout and held.stdin and held.stdout.readline() == b"ready\n"
    before = place.calls("server", rpc_method=f"{SERVICE}/Echo")
    assert place.agent.total("sidelight_rpc_active_calls", rpc_method=f"{SERVICE}/Echo", reporter="destination") == 3
    held.stdin.write(b"\n")
    held.stdin.close()
    assert held.wait(60) == 0
    eventually(lambda: place.calls("server", rpc_method=f"{SERVICE}/Echo") == before + 3)
    assert place.agent.total("sidelight_rpc_active_calls", rpc_method=f"{SERVICE}/Echo") == 0


def test_http_2_has_routes(tmp_path: Path) -> None:
    """h2load asks nginx; counts by route, version and status, as the access log has them."""
    with running("--fold-http-routes", "--http-route", "/users/{id}") as agent:
        port = free_port()
        (tmp_path / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{ worker_connections 256; }}
http {{ access_log {tmp_path}/access.log; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;
  fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;
  server {{ listen 127.0.0.1:{port} http2; location /users {{ return 200 "u"; }} location /orders {{ return 404 "o"; }} location / {{ return 503; }} }} }}""")  # fmt: skip
        agent.processes.start("web", ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
        eventually(lambda: subprocess.run(["ss", "-Htln", f"sport = :{port}"], capture_output=True, text=True).stdout)
        at = f"http://127.0.0.1:{port}"
        paths = (
            [f"{at}/users/{name}?token=x" for name in ("ann", "bob", "7")]
            + [f"{at}/orders/{n}" for n in range(9)]
            + [f"{at}/x"]
        )
        agent.processes.start("load", ["h2load", "-n", "1300", "-c", "2", "-m", "20", *paths]).wait(60)

        def found() -> dict[tuple[str, str], int]:
            return {
                (labels.get("http_route", ""), labels["http_response_status_code"]): int(value)
                for labels, value in agent.samples(
                    "http_server_request_duration_seconds_count", network_protocol_version="2"
                )
            }

        expected = {("/users/{id}", "200"): 300, ("/orders/*", "404"): 900, ("/x", "503"): 100}
        eventually(lambda: found() == expected, what=found)
        assert "token" not in agent.cli("tail", "--since", "1m", "--no-follow", "-o", "json").stdout
        assert not agent.broken_laws()
