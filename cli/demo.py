"""`sidelight demo`: real servers and clients in a cgroup of their own, observed for a while; our counts beside theirs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from sidelight.agent.bpf import BPF_FS_MAGIC, filesystem_magic
from sidelight.agent.errors import SidelightError, UnsupportedFeature
from sidelight.agent.loader import DEFAULT_BPFFS, cgroup2_root
from sidelight.agent.settings import AgentSettings, default_socket
from sidelight.cli import options
from sidelight.cli.client import Client, open_channel
from sidelight.cli.selection import Selection
from sidelight.cli.tail import show
from sidelight.exporter.proto import observer_pb2

PROGRAMS = {"nginx": "nginx-light", "redis-server": "redis-server", "curl": "curl", "wrk": "wrk"}


@click.command("demo")
@click.option("--seconds", default=10.0, show_default=True, help="How long clients ask.")
@click.option(
    "--kubernetes",
    is_flag=True,
    help="A small shop in a test cluster: network namespaces as pods, a real API protocol.",
)
@click.option(
    "--canary",
    type=click.Choice(["errors", "tail", "resets", "bad-pod", "nothing"]),
    help="The same cluster's catalogue gets a second version that is worse in this way; `verify` follows it.",
)
@click.option(
    "--policy", is_flag=True, help="The shop's traffic as policies: suggested, checked, and what they would cut."
)
@click.option("--metrics-listen", default="off", metavar="HOST:PORT", help="Serve /metrics and /map meanwhile.")
@click.option("--lines", default=60, show_default=True, help="Flows shown at most.")
@click.option("-o", "--output", type=click.Choice(["compact", "wide", "json"]), default="compact", show_default=True)
def demo_command(
    seconds: float, kubernetes: bool, canary: str | None, policy: bool, metrics_listen: str, lines: int, output: str
) -> None:
    """See it work: servers and clients in a cgroup of their own, named flows, and both sides' counts.

    \b
    Examples:
      sidelight demo
      sidelight demo --seconds 60 --metrics-listen 127.0.0.1:9464     and look at http://127.0.0.1:9464/map
      sidelight demo --kubernetes
      sidelight demo --canary errors
      sidelight demo --policy
    """
    options.require_root()
    _mount_bpffs()
    if canary:
        from sidelight.cli.demo_canary import run as run_canary

        run_canary(canary, output)
        return
    if policy:
        from sidelight.cli.demo_policy import run as run_policy

        run_policy(seconds)
        return
    if kubernetes:
        from sidelight.cli.demo_kubernetes import run

        run(seconds, metrics_listen, lines, output)
        return
    missing = {package for program, package in PROGRAMS.items() if not _find(program)}
    if missing:
        raise UnsupportedFeature(
            f"the demo needs {', '.join(sorted(missing))}: apt-get install {' '.join(sorted(missing))}"
        )
    cgroup2 = cgroup2_root()
    with demo_cgroup(cgroup2) as cgroup, tempfile.TemporaryDirectory(prefix="sidelight-demo-") as scratch:
        _run(cgroup, cgroup2, Path(scratch), seconds, metrics_listen, lines, output)


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _mount_bpffs() -> None:
    if filesystem_magic(DEFAULT_BPFFS) != BPF_FS_MAGIC:
        done = subprocess.run(["mount", "-t", "bpf", "bpf", str(DEFAULT_BPFFS)], capture_output=True, check=False)
        if done.returncode:
            raise UnsupportedFeature(f"cannot mount bpffs: {done.stderr.decode().strip()}")


@contextlib.contextmanager
def demo_cgroup(root: Path) -> Iterator[Path]:
    """A cgroup of our own with children made on demand; what a dead demo left is removed first, and so is this one."""
    for left in root.glob("sidelight-demo-*"):
        pid = left.name.rpartition("-")[2]
        if not Path(f"/proc/{pid}").exists():
            _remove_cgroup(left)
    path = root / f"sidelight-demo-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        _remove_cgroup(path)


def _remove_cgroup(path: Path) -> None:
    for child in sorted(path.rglob("*"), key=lambda p: -len(p.parts)):
        if child.is_dir():
            _rmdir(child)
    _rmdir(path)


def _rmdir(path: Path) -> None:
    for _ in range(50):  # the kernel lets go of exited processes a little later
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)


class Processes:
    """Children in named cgroups, ended by pid, newest first."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = cgroup
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        home = self._cgroup / name
        home.mkdir(exist_ok=True)
        # a shell enters the cgroup and becomes the program: no Python runs between fork and exec
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(home / "cgroup.procs"), *command],
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stdout=more.pop("stdout", subprocess.DEVNULL),
            stderr=more.pop("stderr", subprocess.DEVNULL),
            **more,
        )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._running.remove(process)

    def stop_all(self) -> None:
        for process in self._running[::-1]:
            self.stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SidelightError(f"nothing listens on port {port}")


NGINX = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  upstream shop {{ server 127.0.0.1:{shop}; keepalive 8; }}
  server {{
    listen 127.0.0.1:{web};
    location = /stub {{ stub_status; }}
    location /static {{ return 200 "static\\n"; }}
    location / {{ proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def _run(cgroup: Path, root: Path, scratch: Path, seconds: float, metrics_listen: str, lines: int, output: str) -> None:
    from sidelight.cli.runtime import Runtime, temporary_instance

    settings = AgentSettings(
        cgroup=cgroup, cgroup_root=root, instance=temporary_instance("demo"), interval_s=0.5, keep_state=False
    )
    runtime = Runtime(settings, {"metrics_listen": metrics_listen})
    processes = Processes(cgroup)
    began = time.monotonic()
    runtime.start()
    try:
        click.echo(f"programs loaded in {time.monotonic() - began:.1f} s, observing {cgroup}", err=True)
        ports = {name: free_port() for name in ("web", "shop", "redis")}
        (scratch / "nginx.conf").write_text(NGINX.format(home=scratch, web=ports["web"], shop=ports["shop"]))
        processes.start(
            "redis",
            ["redis-server", "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--save", "", "--dir", str(scratch)],
        )
        report = scratch / "served"
        shop = processes.start(
            "shop",
            [
                sys.executable,
                "-I",
                str(Path(__file__).with_name("shop.py")),
                str(ports["shop"]),
                str(ports["redis"]),
                str(report),
            ],
        )
        nginx = processes.start("web", [str(_find("nginx")), "-c", str(scratch / "nginx.conf")])
        for port in ports.values():
            wait_for_port(port)
        channel = open_channel(f"unix:{default_socket(settings.instance, settings.state)}", {})
        client = Client([("demo", channel)])
        printer = threading.Thread(target=_print_flows, args=(client, lines, output), daemon=True)
        printer.start()
        _ask(processes, ports["web"], seconds)
        stub = _http_get(ports["web"], "/stub")
        commands = _redis_connections(ports["redis"])
        processes.stop(nginx)  # it lets go of its connections to the shop first
        processes.stop(shop)
        runtime.agent.drain_now()
        time.sleep(0.3)
        runtime.agent.drain_now()
        edges = client.query("edges")["edges"]
        audit = client.query("audit")
        client.close()
        printer.join(timeout=3)
        _report(edges, audit, stub, int(report.read_text()), commands, ports)
        click.echo(f"first named flow {runtime.agent.first_flow_s:.1f} s after the start", err=True)
    finally:
        processes.stop_all()
        runtime.stop(detach=True)
        shutil.rmtree(settings.state / settings.instance, ignore_errors=True)


def _print_flows(client: Client, lines: int, output: str) -> None:
    try:
        show(client.flows(observer_pb2.GetFlowsRequest(follow=True)), Selection(), {"output": output, "count": lines})
    except (SidelightError, ValueError):
        return  # the demo is over and has closed the channel


def _ask(processes: Processes, port: int, seconds: float) -> None:
    """Requests of several kinds, then a short burst at full speed."""
    end = time.monotonic() + max(1.0, seconds - 2)
    url = f"http://127.0.0.1:{port}"
    turn = 0
    while time.monotonic() < end:
        for path in ("/static/logo.png", "/cart?user=42", "/slow" if turn % 5 == 4 else "/cart", "/fail"):
            processes.start("curl", ["curl", "-s", "-o", "/dev/null", url + path]).wait()
        processes.start("curl", ["curl", "-s", "-o", "/dev/null", "http://127.0.0.1:9/"]).wait()
        turn += 1
        time.sleep(0.4)
    processes.start("wrk", ["wrk", "-t1", "-c8", "-d2s", url + "/static/burst"]).wait()


def _http_get(port: int, path: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
        body: str = response.read().decode()
        return body


def _redis_connections(port: int) -> int:
    """Connections redis says it received, this one included."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"INFO stats\r\n")
        text = connection.recv(65536).decode()
    return int(re.search(r"total_connections_received:(\d+)", text)[1])  # type: ignore[index]


def _report(
    edges: list[dict[str, Any]], audit: dict[str, Any], stub: str, served: int, connections: int, ports: dict[str, int]
) -> None:
    """Our counts beside the servers' own."""

    def ours(port: int, reporter: str, what: str) -> int:
        rows = [edge for edge in edges if edge["port"] == port and edge["reporter"] == reporter]
        if what == "requests":
            return sum(sum(edge["statuses"].values()) for edge in rows)
        return sum(edge.get(what, 0) for edge in rows)

    nginx_requests = int(stub.split("\n")[2].split()[2])
    rows = [
        ("nginx (web)", "requests", nginx_requests, ours(ports["web"], "destination", "requests")),
        ("shop.py", "requests", served, ours(ports["shop"], "destination", "requests")),
        ("redis", "connections", connections, ours(ports["redis"], "destination", "opened")),
    ]
    click.echo()
    click.echo(f"{'server':14} {'what':12} {'its own count':>14} {'sidelight':>10}")
    for name, what, theirs, mine in rows:
        mark = click.style("exact", fg="green") if theirs == mine else click.style("DIFFERS", fg="red")
        click.echo(f"{name:14} {what:12} {theirs:14} {mine:10}  {mark}")
    broken = [law["law"] for law in audit["laws"] if not law["holds"]]
    click.echo(f"books: {len(audit['laws'])} laws, " + ("all hold" if not broken else f"BROKEN: {', '.join(broken)}"))
    if broken or any(theirs != mine for _, _, theirs, mine in rows):
        raise SidelightError("the demo's counts do not agree")
