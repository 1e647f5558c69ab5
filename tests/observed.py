"""A piece of the machine under observation: a cgroup of its own, the programs on it, and processes in its children.

Everything is taken down again whatever happens, and what a run that died has left behind is removed first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sidelight.agent import layout, loader
from sidelight.agent.audit import laws
from sidelight.agent.core import settings_record
from sidelight.agent.loader import LoadRequest, Pins, Sizes, cgroup2_root, run_loader
from sidelight.agent.protocols import PROTOCOLS
from sidelight.agent.settings import CaptureSettings
from sidelight.agent.source import Source
from sidelight.cli.demo import Processes, _remove_cgroup

PREFIX = "sidelight-test-"
OPEN_RATES = CaptureSettings(
    ordinary_rate=100_000, priority_rate=100_000, connection_rate=100_000, payload_rate=100_000
)


PATIENCE = float(os.environ.get("SIDELIGHT_PATIENCE", "1"))
"""How much longer than here things may take: guests without acceleration say 15 (tests/kernels)."""


def eventually(
    condition: Callable[[], Any], timeout_s: float = 15.0, what: str | Callable[[], object] = "", every_s: float = 0.02
) -> Any:
    """Polls until the condition holds and returns what it gave. `what`: said, or asked for, when it does not."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(
                f"did not happen within {timeout_s:g} s: {(what() if callable(what) else what) or condition}"
            )
        time.sleep(every_s)


def remove_leftovers() -> None:
    """Cgroups, pins and namespaces of test runs whose process is gone."""
    root = cgroup2_root()
    for left in root.glob(f"{PREFIX}*"):
        pid = left.name.removeprefix(PREFIX).split("-")[0]
        if not Path(f"/proc/{pid}").exists():
            for procs in left.rglob("cgroup.procs"):
                for process in procs.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), 9)
            _remove_cgroup(left)
    pins = Path("/sys/fs/bpf/sidelight")
    for left in pins.glob("test-*") if pins.is_dir() else ():
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            loader.unload(left.name)


_serial = 0


@dataclass
class Totals:
    """Everything drained so far, in plain Python: what the tests compare."""

    edges: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)
    http: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """(role, method, status) -> requests; status 0: no response."""
    exchanges: Counter[tuple[str, int, int, int, int]] = field(default_factory=Counter)
    """(role, protocol, method, status, operation) -> exchanges."""
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(role, tx or rx) -> gRPC messages."""
    protocols: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(role, protocol) -> exchanges."""
    other: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(role, protocol) -> samples."""

    def sum(self, role: str, name: str) -> Any:
        return sum(values[name] for (kind, _, _), values in self.edges.items() if kind == role)

    def requests(self, role: str) -> dict[tuple[str, int], int]:
        return {(method, status): n for (kind, method, status), n in sorted(self.http.items()) if kind == role}


_ROLES = {layout.ROLE_CLIENT: "client", layout.ROLE_SERVER: "server", layout.ROLE_OVERFLOW: "overflow", 0: "unknown"}


class Observed:
    """The programs on a cgroup, read directly through the source: no agent in between."""

    def __init__(
        self, sizes: Sizes | None = None, capture: CaptureSettings = OPEN_RATES, *, attached: bool = True
    ) -> None:
        global _serial
        _serial += 1
        remove_leftovers()
        self.name = f"{os.getpid()}-{_serial}"
        self.cgroup = cgroup2_root() / f"{PREFIX}{self.name}"
        self.cgroup.mkdir()
        self.instance = f"test-{self.name}"
        self.sizes = sizes or Sizes()
        self.processes = Processes(self.cgroup)
        self.totals = Totals()
        self.events: list[bytes] = []
        self._edge_values = np.zeros(1, layout.EDGE_VALUE)
        self._latency_rows: Counter[tuple[int, int, int]] = Counter()
        try:
            if attached:
                self.attach(capture)
        except BaseException:
            self.close()
            raise

    def attach(self, capture: CaptureSettings = OPEN_RATES) -> None:
        """Loads and attaches the programs: at once, unless the test wants connections that are older."""
        self.report = run_loader(LoadRequest(str(self.cgroup), self.instance, sizes=self.sizes))
        self.source = Source(Pins.of(self.instance), self.sizes)
        self.configure(capture)
        self.source.adopt(self.report.roles)

    def configure(self, capture: CaptureSettings) -> None:
        self.source.configure(settings_record(capture))

    def cgroup_id(self, name: str) -> int:
        return (self.cgroup / name).stat().st_ino

    def start(self, name: str, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        return self.processes.start(name, command, **more)

    def python(
        self, name: str, script: str, *arguments: object, netns: str = "", **more: Any
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(Path(__file__).parent / "peers" / script), *map(str, arguments)]
        if netns:
            command = ["ip", "netns", "exec", netns, *command]
        return self.start(name, command, **more)

    def read_events(self) -> list[bytes]:
        self.events += self.source.ring.read(1 << 30)
        return self.events

    def drain(self) -> Totals:
        """Takes what the kernel counted since the last time."""
        generation = self.source.drain()
        indexes, carried = generation.carried()
        edge_keys = [*generation.edge_keys, *generation.latency_keys["edge"][indexes]]
        for key, value in zip(edge_keys, [*generation.edge_values, *carried], strict=True):
            role = _ROLES[int(key["role"])]
            at = (role, int(key["cgroup_id"]), int(key["port"]))
            into = self.totals.edges.setdefault(at, {n: np.zeros_like(value[n]) for n in layout.EDGE_VALUE.names or ()})
            for name in layout.EDGE_VALUE.names or ():
                into[name] = into[name] + value[name]
                self._edge_values[name][0] += value[name]
        for key, value in zip(generation.latency_keys, generation.latency_values, strict=True):
            role = _ROLES[int(key["edge"]["role"])]
            n = int(value["buckets"].sum()) + int(value["untimed"])
            protocol, status = int(key["protocol"]), int(key["status"])
            self._latency_rows[(protocol, status, int(key["operation"]))] += n
            if role == "overflow":
                self.totals.other[("overflow", 0)] += n
            elif protocol in PROTOCOLS:
                self.totals.protocols[(role, protocol)] += n
                self.totals.exchanges[(role, protocol, int(key["method"]), status, int(key["operation"]))] += n
                self.totals.messages[(role, "tx")] += int(value["tx_messages"])
                self.totals.messages[(role, "rx")] += int(value["rx_messages"])
                self.totals.http[(role, PROTOCOLS[protocol].method(int(key["method"])), status)] += n
            else:
                self.totals.other[(role, protocol)] += n
        self.source.clear(generation)
        return self.totals

    def forget(self) -> None:
        """Begins anew with empty totals; the laws go on over everything since the maps were made."""
        self.settle()
        self.totals = Totals()

    def settle(self, closed: bool = True) -> Totals:
        """Waits until every opened connection has ended, then drains."""
        if closed:
            eventually(
                lambda: (c := self.source.counters())["seen_closed"] >= c["seen_opened"] + c["seen_adopted"],
                what="all connections closed",
            )
        return self.drain()

    def assert_books(self, overflow: bool = False) -> None:
        """Every conservation law; under overflow the latencies without a name count for all kinds."""
        counters = self.source.counters()
        rows = [(*row, n) for row, n in self._latency_rows.items()]
        for law in laws(counters, self._edge_values, rows):
            if overflow and law["law"].startswith(("requests answered", "requests unanswered", "dns")):
                continue
            assert law["holds"], (law, counters)
        self.read_events()
        assert counters["sent_events"] == len(self.events)

    def close(self) -> None:
        self.processes.stop_all()
        loader.unload(self.instance)
        shutil.rmtree(Path("/run/sidelight") / self.instance, ignore_errors=True)
        _remove_cgroup(self.cgroup)


@contextlib.contextmanager
def observed(**more: Any) -> Iterator[Observed]:
    found = Observed(**more)
    try:
        yield found
    finally:
        found.close()


class Namespaces:
    """Two network namespaces and a veth between them, IPv4 and IPv6; gone at the end."""

    def __init__(self) -> None:
        global _serial
        _serial += 1
        self.left, self.right = f"slt{os.getpid()}l{_serial}", f"slt{os.getpid()}r{_serial}"
        self.left_ip, self.right_ip = "10.213.7.1", "10.213.7.2"
        self.left_ip6, self.right_ip6 = "fd5d:7::1", "fd5d:7::2"
        run("ip", "netns", "add", self.left)
        run("ip", "netns", "add", self.right)
        run("ip", "-n", self.left, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.right)
        for name, ip, ip6 in ((self.left, self.left_ip, self.left_ip6), (self.right, self.right_ip, self.right_ip6)):
            run("ip", "-n", name, "addr", "add", f"{ip}/24", "dev", "eth0")
            run("ip", "-n", name, "addr", "add", f"{ip6}/64", "dev", "eth0", "nodad")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")

    def nft(self, netns: str, rules: str) -> None:
        run("ip", "netns", "exec", netns, "nft", "-f", "-", text=rules)

    def close(self) -> None:
        for name in (self.left, self.right):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    for line in subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, check=False
    ).stdout.splitlines():
        name = line.split()[0]
        if name.startswith("slt"):
            pid = "".join(c for c in name[3:].split("l")[0].split("r")[0] if c.isdigit())
            if not Path(f"/proc/{pid}").exists():
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    found = Namespaces()
    try:
        yield found
    finally:
        found.close()


def run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
