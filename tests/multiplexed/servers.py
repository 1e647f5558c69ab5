"""Servers that count what they are asked, as commands, and how their counts are read."""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.golang import built

PEERS = Path(__file__).resolve().parents[1] / "peers"
NODE_MODULES = Path("/var/cache/sidelight/npm/node_modules")
"""Where @grpc/grpc-js is, which Debian does not have."""


@dataclass(frozen=True, slots=True)
class Server:
    """`command` of (scratch, port), the port being free on 127.0.0.1; `count` of the same: requests served so far."""

    name: str
    rpc: bool
    command: Callable[[Path, int], list[str]]
    count: Callable[[Path, int], int]
    streams: int = 1000
    """Streams at once that it allows a connection."""
    path: str = "/page/hello.html"


def _reported(scratch: Path, port: int) -> int:
    report = scratch / "report"
    return int(report.read_text()) if report.exists() else 0


def _lines(scratch: Path, port: int) -> int:
    log = scratch / "access.log"
    # Apache logs a request that is upgraded twice: as that, and as what it then is
    return sum(b" 101" not in line for line in log.read_bytes().splitlines()) if log.exists() else 0


def _page(scratch: Path) -> Path:
    (scratch / "www" / "page").mkdir(exist_ok=True, parents=True)
    (scratch / "www" / "page" / "hello.html").write_text("hello, this is a page\n")
    return scratch / "www"


def _nginx(scratch: Path, port: int) -> list[str]:
    (scratch / "nginx.conf").write_text(f"""
daemon off; master_process off; worker_processes 1; pid {scratch}/nginx.pid; error_log {scratch}/error.log;
events {{ worker_connections 4096; }}
http {{
  log_format short '$request_method $status'; access_log {scratch}/access.log short;
  client_body_temp_path {scratch}/b; proxy_temp_path {scratch}/p; fastcgi_temp_path {scratch}/f; uwsgi_temp_path {scratch}/u;
  scgi_temp_path {scratch}/s; http2_max_concurrent_streams 1000; http2_max_requests 10000000; keepalive_requests 10000000;
  server {{ listen 127.0.0.1:{port} http2 backlog=1024; root {_page(scratch)}; }}
}}""")
    return ["nginx", "-p", str(scratch), "-c", str(scratch / "nginx.conf")]


def _h2o(scratch: Path, port: int) -> list[str]:
    (scratch / "h2o.conf").write_text(f"""
listen: {{host: 127.0.0.1, port: {port}}}
num-threads: 1
http2-max-concurrent-requests-per-connection: 1000
access-log: {{path: {scratch}/access.log, format: "%m %s"}}
hosts: {{default: {{paths: {{"/": {{file.dir: {_page(scratch)}}}}}}}}}
""")
    return ["h2o", "-c", str(scratch / "h2o.conf")]


def _apache(scratch: Path, port: int) -> list[str]:
    modules = "\n".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
        for name in ("mpm_event", "authz_core", "http2")
    )
    (scratch / "apache.conf").write_text(f"""
{modules}
ServerName test
ServerRoot {scratch}
PidFile {scratch}/apache.pid
Mutex file:{scratch}
Listen 127.0.0.1:{port}
Protocols h2c http/1.1
H2MaxSessionStreams 1000
MaxKeepAliveRequests 0
DocumentRoot {_page(scratch)}
ErrorLog {scratch}/error.log
LogFormat "%m %>s" short
CustomLog {scratch}/access.log short
""")
    return ["apache2", "-X", "-f", str(scratch / "apache.conf")]


def _etcd(scratch: Path, port: int) -> list[str]:
    here, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    return [
        "etcd", "--data-dir", str(scratch / "etcd"), "--listen-client-urls", here, "--advertise-client-urls", here,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
        "--log-level", "error", "--logger", "zap",
    ]  # fmt: skip


def _etcd_handled(scratch: Path, port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    return int(sum(float(n) for n in re.findall(r"^grpc_server_handled_total\{.*\} (\S+)$", text, re.M)))


def _nghttpd(scratch: Path, port: int) -> list[str]:
    return [
        "sh",
        "-c",
        f"exec nghttpd --no-tls -v -d {_page(scratch)} --address=127.0.0.1 -m 1000 {port} > {scratch}/said",
    ]


def _nghttpd_said(scratch: Path, port: int) -> int:
    said = scratch / "said"
    return said.read_bytes().count(b"recv HEADERS frame") if said.exists() else 0


def _peer(name: str) -> Callable[[Path, int], list[str]]:
    run = ["node"] if name.endswith(".js") else [sys.executable]
    more = ["serve"] if name == "grpclib_peer.py" else []
    return lambda scratch, port: [*run, str(PEERS / name), *more, "127.0.0.1", str(port), str(scratch / "report")]


def _grpcio_count(scratch: Path, port: int) -> int:
    import json

    report = scratch / "report"
    return sum(json.loads(report.read_text()).values()) if report.exists() else 0


SERVERS = (
    Server("nginx", False, _nginx, _lines),
    Server("nghttpd", False, _nghttpd, _nghttpd_said),
    Server("h2o", False, _h2o, _lines),
    Server("Apache", False, _apache, _lines),
    Server("Node", False, _peer("http2_server.js"), _reported),
    Server(
        "Go",
        False,
        lambda scratch, port: [str(built("h2c")), "serve", f"127.0.0.1:{port}", str(scratch / "report")],
        _reported,
    ),
    Server("hypercorn", False, _peer("hypercorn_server.py"), _reported),
    Server("grpcio", True, _peer("grpc_server.py"), _grpcio_count),
    Server("grpc-js", True, _peer("grpc_server.js"), _reported),
    Server("grpclib", True, _peer("grpclib_peer.py"), _reported),
    Server("etcd", True, _etcd, _etcd_handled),
)
