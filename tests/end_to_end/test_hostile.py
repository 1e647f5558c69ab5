"""A million distinct hostile paths and hosts: series, names and memory stay what they were."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.observed import eventually
from tests.running import running

NGINX = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log /dev/null;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  keepalive_requests 10000000; large_client_header_buffers 8 16k;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "ok"; }} location = /count {{ stub_status; }} }}
}}
"""
# sixteen requests a write, each with a path and a Host of its own: dots, percent signs, terminal escapes, quotes, braces
WRK = r"""
local n = 0
local host = {"a%d.example.com", "%d.evil.test:80", "x\"%d{}\\", "%d\27[31mred"}
request = function()
  local t = {}
  for i = 1, 16 do
    n = n + 1
    t[i] = string.format("GET /%d/%%1b[2J/..;/'\"{}<script>%d HTTP/1.1\r\nHost: " .. host[n %% 2 + 1] .. "\r\n\r\n", n, n * 7919, n)
  end
  return table.concat(t)
end
""".replace("n %% 2", "n % 2")  # fmt: skip
WANTED = 1_000_000
OPERATIONS = 32


@pytest.mark.parametrize("routes", ["none", "folded"])
def test_a_million_paths_and_hosts(tmp_path: Path, routes: str) -> None:
    folding = ("--fold-http-routes", "--max-operations", str(OPERATIONS)) if routes == "folded" else ()
    with running("--otlp", *folding) as agent:
        from sidelight.cli.demo import free_port, wait_for_port

        port = free_port()
        (tmp_path / "nginx.conf").write_text(NGINX.format(home=tmp_path, port=port))
        (tmp_path / "paths.lua").write_text(WRK)
        agent.processes.start("nginx", ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
        wait_for_port(port)

        def load(seconds: int) -> None:
            wrk = ["wrk", "-t", "1", "-c", "8", "-d", f"{seconds}", "-s", str(tmp_path / "paths.lua"), f"http://127.0.0.1:{port}/"]  # fmt: skip
            done = agent.processes.start("wrk", wrk, stdout=subprocess.PIPE)
            done.communicate(timeout=120)

        load(2)
        eventually(lambda: agent.total("http_server_request_duration_seconds_count") > 1000)
        series = agent.get("/metrics").count(b"\n")
        rss = agent.total("sidelight_memory_bytes")
        for _ in range(20):
            load(5)
            if agent.total("http_server_request_duration_seconds_count") >= WANTED:
                break
        seen = agent.total("http_server_request_duration_seconds_count")
        assert seen >= WANTED, seen
        body = agent.get("/metrics")
        assert body.count(b"\n") <= series + 60, "a few statuses and losses more, no path and no host"
        for hostile in (b"evil", b"example.com", b"\x1b", *((b"script", b"%1b") if routes == "none" else ())):
            assert hostile not in body
        if routes == "folded":
            assert agent.total("sidelight_operations") == OPERATIONS
            apart = {labels["http_route"] for labels, _ in agent.samples("http_server_request_duration_seconds_count") if "http_route" in labels}  # fmt: skip
            assert 0 < len(apart) <= OPERATIONS and all(route.startswith("/*/%1b[2J/") for route in apart)
            assert agent.total("sidelight_undecided_total", reason="operation_folded") > WANTED / 2
        # the ring of flows fills up meanwhile: it is the only thing that may grow, and it has its limit
        grown = agent.total("sidelight_memory_bytes") - rss - agent.total("sidelight_ring_bytes")
        assert grown < 24e6, grown
        assert agent.total("sidelight_identity_names") <= 65536
        shown = agent.cli("tail", "--no-follow", "--last", "200").stdout
        assert len(shown.splitlines()) == 200
        assert "\x1b[2J" not in shown and "\x1b[31m" not in shown, (
            "nothing the network said reaches the terminal unescaped"
        )
        assert not agent.broken_laws()
