"""HTTP routes as operations: by templates and by folding, in metrics, spans' flows and over a restart; exact beside nginx's count."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.end_to_end.test_servers import nginx, served, stub_status
from tests.observed import eventually
from tests.running import Running, flows_of, running

PATHS = {
    "/users/me": "/users/me", "/users/17": "/users/{id}", "/users/bob": "/users/{id}", "/users/17/": "/users/{id}", "/static/a/b.js?v=1": "/static/*",
    "/orders/17": "/orders/*", "/orders/550e8400-e29b-41d4-a716-446655440000/lines/2": "/orders/*/lines/*", "/a@b.example/x": "/*/x", "/": "/",
    "/cart": "/cart",
}  # fmt: skip
ROUTES = ("--http-route", "/users/me", "--http-route", "/users/{id}", "--http-route", "/static/*", "--fold-http-routes")


def ask(agent: Running, port: int, times: int) -> None:
    urls = [f"http://127.0.0.1:{port}{path}" for path in PATHS for _ in range(times)]
    assert (
        agent.processes.start("client", ["curl", "-s", "-o", "/dev/null", *urls], stdout=subprocess.DEVNULL).wait(60)
        == 0
    )


def by_route(agent: Running, side: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, value in agent.samples(f"http_{side}_request_duration_seconds_count", destination_workload="nginx"):
        route = labels.get("http_route", "")
        found[route] = found.get(route, 0) + value
    return found


def test_templates_then_folding_and_over_kill_nine(tmp_path: Path) -> None:
    wanted: dict[str, float] = {}
    for route in PATHS.values():
        wanted[route] = wanted.get(route, 0) + 3
    with running(*ROUTES) as agent:
        port = nginx(agent.processes, tmp_path)
        ask(agent, port, 3)
        eventually(lambda: by_route(agent, "client") == wanted, what=str(wanted))
        agent.kill(9)
        agent.start()
        ask(agent, port, 3)
        wanted = {route: 2 * n for route, n in wanted.items()}
        eventually(lambda: by_route(agent, "client") == wanted, what=str(wanted))
        theirs = stub_status(port)
        eventually(lambda: served(agent, "destination") == theirs)
        seen = {name: by_route(agent, "server").get(name) for name in wanted}
        # the test's own connection checks ask for nothing; its one question for nginx's count has a route too
        assert seen == wanted and by_route(agent, "server")["/stub"] == 1
        assert agent.total("sidelight_operations") == len({*wanted, "/stub"}) and not agent.broken_laws()
        operations = {flow.get("sidelight", {}).get("operation") for flow in flows_of(agent)}
        assert {"/users/{id}", "/orders/*"} <= operations


def test_off_by_default(tmp_path: Path) -> None:
    with running() as agent:
        port = nginx(agent.processes, tmp_path)
        ask(agent, port, 1)
        eventually(lambda: by_route(agent, "client") == {"": float(len(PATHS))})
        assert agent.total("sidelight_seen_total", item="operations") == 0
