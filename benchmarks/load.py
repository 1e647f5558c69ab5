"""Load for the benchmarks, in a cgroup and a network namespace of their own; with the programs, without, or with empty ones.

Everything is taken down again, whatever fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.floor import attached, floor
from sidelight.agent import bpf, loader
from sidelight.agent.core import settings_record
from sidelight.agent.loader import LoadRequest, Pins, Sizes, cgroup2_root, run_loader
from sidelight.agent.settings import CaptureSettings
from sidelight.agent.source import ProgramCost, Source
from sidelight.cli.demo import Processes, _find, _remove_cgroup

SHORT = ("-H", "Connection: close")
PORT, PROXY_PORT, HTTP2_PORT, GRPC_PORT, RPC_PORT, REDIS_PORT, IPERF_PORT = 8080, 8081, 8082, 8083, 8084, 6379, 5201
PEERS = Path(__file__).resolve().parents[1] / "tests" / "peers"
LARGE_BYTES = 1_000_000
ADDRESS = "10.99.0.1"
"""First of the server's addresses: all of 10.99.0.0/16 is local in the namespace."""

NGINX = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log; worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  {more}
}}
"""
SERVER = """
  server {{ listen 0.0.0.0:{port} backlog=4096;
    location /static {{ return 200 "static\\n"; }} location /files {{ root {home}; }} }}
"""
HTTP2 = """
  server {{ listen 0.0.0.0:{port} http2 backlog=4096; http2_max_requests 100000000; http2_max_concurrent_streams 1000;
    location /static {{ return 200 "static\n"; }} }}
"""
PROXY = """
  upstream web {{ server 127.0.0.1:{port}; keepalive 64; }}
  server {{ listen 0.0.0.0:{proxy} backlog=4096;
    location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
"""


class Bench:
    """A cgroup and a network namespace with nginx in them."""

    def __init__(self, cgroup: Path, netns: str, scratch: Path, server_observed: bool) -> None:
        self.netns, self.scratch = netns, scratch
        self.instance = f"bench-{os.getpid()}"
        self.processes = Processes(cgroup)
        self.cgroup = cgroup
        if not server_observed:  # clients get a cgroup below, which is then the one to observe
            self.cgroup = cgroup / "observed"
            self.cgroup.mkdir()
        (scratch / "files").mkdir()
        (scratch / "files" / "large").write_bytes(b"x" * LARGE_BYTES)
        scratch.chmod(0o755)
        self.nginx("nginx", SERVER.format(home=scratch, port=PORT), PORT)

    def start(self, name: str, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        """In the cgroup's child `name` and in the namespace."""
        if self.cgroup.name == "observed" and name != "nginx":
            name = f"observed/{name}"
        return self.processes.start(name, ["ip", "netns", "exec", self.netns, *command], **more)

    def nginx(self, name: str, servers: str, port: int) -> None:
        home = self.scratch / f"{name}.home"
        home.mkdir()
        home.chmod(0o777)
        (home / "nginx.conf").write_text(NGINX.format(home=home, more=servers))
        self.start(name, str(_find("nginx")), "-c", str(home / "nginx.conf"))
        self.listening(port)

    def proxy(self) -> None:
        """A second nginx that hands everything to the first: one hop, as a sidecar makes."""
        self.nginx("proxy", PROXY.format(port=PORT, proxy=PROXY_PORT), PROXY_PORT)

    def listening(self, port: int) -> None:
        deadline = time.monotonic() + 10
        command = ["ip", "netns", "exec", self.netns, "ss", "-Htln", f"sport = :{port}"]
        while not subprocess.run(command, capture_output=True, check=True).stdout:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on {port}: {_errors(self.scratch)}")
            time.sleep(0.05)

    @contextlib.contextmanager
    def observed(self) -> Iterator[Source]:
        """The programs on the cgroup, configured as by default, nobody draining."""
        run_loader(LoadRequest(str(self.cgroup), self.instance))
        source = Source(Pins.of(self.instance), Sizes())
        source.configure(settings_record(CaptureSettings()))
        try:
            yield source
        finally:
            loader.unload(self.instance)

    @contextlib.contextmanager
    def switch(self) -> Iterator[Switch]:
        """The programs loaded, but attached only where Switch.attached() says so: alternating runs need not load them again."""
        with self.observed():
            pins = Pins.of(self.instance)
            for path in pins.links.iterdir():
                path.unlink()
            yield Switch(self.cgroup, pins)

    # -- loads -----------------------------------------------------------------------------------------------------

    def wrk(
        self, seconds: float, *more: str, connections: int = 16, path: str = "/static", port: int = PORT
    ) -> tuple[float, float]:
        """(requests a second, requests) as fast as they go."""
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            *more,
            f"http://127.0.0.1:{port}{path}",
        ]
        said = self.start("wrk", *command, stdout=subprocess.PIPE).communicate()[0].decode()
        return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), float(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]

    def fixed_rate(
        self, rate: float, seconds: float, connections: int = 16, addresses: int = 1, name: str = "openloop"
    ) -> dict[str, float]:
        """What benchmarks/openloop.c says: requests, failed, p50_us ... max_us. `addresses` of the server, from ADDRESS on."""
        program = self.scratch / "openloop"
        if not program.exists():
            source = Path(__file__).with_name("openloop.c")
            subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
        arguments = [ADDRESS, str(PORT), "/static", str(rate), str(seconds), str(connections), str(addresses)]
        load = self.start(name, str(program), *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said, problem = load.communicate()
        if load.returncode:
            raise RuntimeError(f"openloop: {problem.decode().strip()}")
        found: dict[str, float] = json.loads(said)
        return found

    def redis(self, requests: int, pipeline: int = 1, connections: int = 16) -> float:
        """GETs a second by redis-benchmark."""
        command = ["redis-benchmark", "-p", str(REDIS_PORT), "-t", "get", "-n", str(requests), "-c", str(connections)]
        load = self.start("redis-benchmark", *command, "-P", str(pipeline), "--csv", stdout=subprocess.PIPE)
        said = load.communicate()[0].decode().splitlines()
        return float(next(line for line in said if line.startswith('"GET"')).split(",")[1].strip('"'))

    def start_redis(self) -> None:
        self.start(
            "redis", str(_find("redis-server")), "--port", str(REDIS_PORT), "--save", "", "--dir", str(self.scratch)
        )
        self.listening(REDIS_PORT)

    def start_http2(self) -> None:
        """nginx that speaks HTTP/2 in clear text, and a grpcio server."""
        self.nginx("nginx2", HTTP2.format(port=HTTP2_PORT), HTTP2_PORT)
        report = str(self.scratch / "calls")
        self.start("grpc-server", sys.executable, str(PEERS / "grpc_server.py"), "127.0.0.1", str(GRPC_PORT), report)
        self.listening(GRPC_PORT)
        self.start_answering()

    def h2load(self, seconds: float, connections: int = 16, streams: int = 1) -> tuple[float, float]:
        """(requests a second, requests) over HTTP/2, so many streams a connection."""
        command = ["h2load", "-D", str(max(1, round(seconds))), "-c", str(connections), "-m", str(streams)]
        load = self.start("h2load", *command, f"http://127.0.0.1:{HTTP2_PORT}/static", stdout=subprocess.PIPE)
        said = load.communicate()[0].decode()
        return float(re.search(r"([\d.]+) req/s", said)[1]), float(re.search(r"(\d+) done", said)[1])  # type: ignore[index]

    def start_answering(self) -> None:
        """nghttpd, which answers as a gRPC server does, to whom h2load is a client."""
        home = self.scratch / "rpc" / "pkg.Service"
        home.mkdir(parents=True)
        (home / "Method").write_bytes(b"\0\0\0\0\x05hello")
        self.start(
            "nghttpd",
            "nghttpd",
            "--no-tls",
            "--trailer=grpc-status: 0",
            "-d",
            str(home.parent),
            "-m",
            "1000",
            str(RPC_PORT),
        )
        self.listening(RPC_PORT)
        (self.scratch / "message").write_bytes(b"\0\0\0\0\x05world")

    def small_calls(self, seconds: float, connections: int = 16, streams: int = 1) -> float:
        """Unary gRPC calls by h2load, as fast as they go."""
        command = [
            "h2load",
            "-D",
            str(max(1, round(seconds))),
            "-c",
            str(connections),
            "-m",
            str(streams),
            "-d",
            str(self.scratch / "message"),
        ]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        load = self.start(
            "h2load", *command, *headers, f"http://127.0.0.1:{RPC_PORT}/pkg.Service/Method", stdout=subprocess.PIPE
        )
        return float(re.search(r"(\d+) done", load.communicate()[0].decode())[1])  # type: ignore[index]

    def calls(self, seconds: float, connections: int = 16) -> float:
        """Small unary gRPC calls by grpcio, about so many seconds of them."""
        command = [sys.executable, str(PEERS / "grpc_client.py"), f"127.0.0.1:{GRPC_PORT}", "load", str(connections)]
        load = self.start("grpc", *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return float(load.communicate(f"{max(1, round(3000 * seconds))} 1\n".encode())[0])

    def start_iperf(self) -> None:
        self.start("iperf-server", "iperf3", "-s", "-p", str(IPERF_PORT))
        self.listening(IPERF_PORT)

    def iperf(self, seconds: float) -> float:
        """Bytes a second of one stream."""
        command = ["iperf3", "-c", "127.0.0.1", "-p", str(IPERF_PORT), "-t", str(max(1, round(seconds))), "-J"]
        said = json.loads(self.start("iperf", *command, stdout=subprocess.PIPE).communicate()[0])
        return float(said["end"]["sum_received"]["bits_per_second"]) / 8


class Switch:
    """Loaded programs, and empty ones, to be attached for a moment."""

    def __init__(self, cgroup: Path, pins: Pins) -> None:
        self._cgroup, self._pins = cgroup, pins

    @contextlib.contextmanager
    def attached(self, what: str) -> Iterator[None]:
        """`what`: observed, empty or nothing."""
        if what == "nothing":
            yield
            return
        if what == "empty":
            with floor(self._cgroup):
                yield
            return
        with attached(self._cgroup, lambda name, _: bpf.open_pin(self._pins.programs / name)):
            yield


@contextlib.contextmanager
def bench(server_observed: bool = True) -> Iterator[Bench]:
    cgroup = cgroup2_root() / f"sidelight-bench-{os.getpid()}"
    netns = cgroup.name
    _remove_leftovers(cgroup.parent)
    cgroup.mkdir()
    subprocess.run(["ip", "netns", "add", netns], check=True)
    scratch = Path(tempfile.mkdtemp(prefix="sidelight-bench-"))
    found = None
    try:
        subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", netns, "route", "add", "local", "10.99.0.0/16", "dev", "lo"], check=True)
        found = Bench(cgroup, netns, scratch, server_observed)
        yield found
    finally:
        if found:
            found.processes.stop_all()
            loader.unload(found.instance)
        subprocess.run(["ip", "netns", "del", netns], check=False)
        _remove_cgroup(cgroup)
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_leftovers(root: Path) -> None:
    """Of a run that died."""
    for left in root.glob("sidelight-bench-*"):
        pid = left.name.rpartition("-")[2]
        if not Path(f"/proc/{pid}").exists():
            for process in left.rglob("cgroup.procs"):
                for number in process.read_text().split():
                    os.kill(int(number), 9)
            loader.unload(f"bench-{pid}")
            subprocess.run(["ip", "netns", "del", left.name], capture_output=True, check=False)
            _remove_cgroup(left)


def _errors(scratch: Path) -> str:
    return " ".join(path.read_text()[-500:] for path in scratch.glob("*/error.log"))


@contextlib.contextmanager
def bpf_stats() -> Iterator[None]:
    """kernel.bpf_stats_enabled for the length of a measurement."""
    path = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = path.read_text()
    path.write_text("1")
    try:
        yield
    finally:
        path.write_text(before)


def costs_between(before: list[ProgramCost], after: list[ProgramCost]) -> dict[str, tuple[int, int]]:
    """hook -> (ns, runs)."""
    old = {cost.name: cost for cost in before}
    return {
        cost.name: (cost.run_time_ns - old[cost.name].run_time_ns, cost.run_count - old[cost.name].run_count)
        for cost in after
    }


def interval(values: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """(median, low, high): a 95 % bootstrap interval of the median."""
    chooser = random.Random(1)
    medians = sorted(statistics.median(chooser.choices(values, k=len(values))) for _ in range(draws))
    return statistics.median(values), medians[int(draws * 0.025)], medians[int(draws * 0.975)]
