"""An agent as a process, as people run it, on a cgroup of its own; and the figures of its /metrics."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from sidelight.agent import loader
from sidelight.agent.loader import cgroup2_root
from sidelight.cli.demo import Processes, _remove_cgroup, free_port
from tests.observed import PATIENCE, PREFIX, eventually, remove_leftovers

SIDELIGHT = [sys.executable, "-m", "sidelight.cli.main"]
_serial = 0


class Running:
    """One agent; kill() and start() again are for tests of its life. `observed`: its cgroup, when it is not to make its own."""

    def __init__(self, *arguments: str, observed: Path | None = None) -> None:
        global _serial
        _serial += 1
        remove_leftovers()
        self.name = f"{os.getpid()}-a{_serial}"
        self.cgroup = cgroup2_root() / f"{PREFIX}{self.name}"
        self.cgroup.mkdir()
        self.observed = observed or self.cgroup
        self.instance = f"test-{self.name}"
        self.processes = Processes(self.cgroup)
        self.port = free_port()
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.log = Path(f"/tmp/{self.instance}.log")
        self.source: Path | None = None
        """Another checkout to run; None: this one."""

    def start(self, *, wait: bool = True) -> None:
        env = {**os.environ, "PYTHONPATH": str(self.source / "src")} if self.source else None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*SIDELIGHT, "agent", "--cgroup", str(self.observed), "--instance", self.instance,
                 "--metrics-listen", f"127.0.0.1:{self.port}", "--interval", "0.3", *self.arguments],
                stdout=log, stderr=log, env=env,
            )  # fmt: skip
        if wait:
            eventually(self.answers, 30, f"agent ready: {self.log.read_text()[-2000:]}")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2 * PATIENCE).status == 200
        return False

    def get(self, path: str, **headers: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=10 * PATIENCE) as response:
            body: bytes = response.read()
            return body

    def samples(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Samples of a name whose labels include the given ones."""
        found = []
        for family in text_string_to_metric_families(self.get("/metrics").decode()):
            for sample in family.samples:
                if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items()):
                    found.append((sample.labels, sample.value))
        return found

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.samples(name, **labels))

    def cli(self, *arguments: str, timeout: float = 60, instance: bool = True) -> subprocess.CompletedProcess[str]:
        command, *rest = arguments
        return subprocess.run(
            [*SIDELIGHT, command, *(("--instance", self.instance) if instance else ()), *rest],
            capture_output=True, text=True, timeout=timeout * PATIENCE, check=False,
        )  # fmt: skip

    def audit(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cli("audit", "-o", "json").stdout)
        return found

    def broken_laws(self) -> list[dict[str, Any]]:
        return [law for law in self.audit()["laws"] if not law["holds"]]

    def kill(self, number: int = 9) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20 * PATIENCE)

    def close(self) -> None:
        self.processes.stop_all()
        if self.process and self.process.poll() is None:
            self.kill(15)
        loader.unload(self.instance)
        shutil.rmtree(Path("/run/sidelight") / self.instance, ignore_errors=True)
        _remove_cgroup(self.cgroup)
        self.log.unlink(missing_ok=True)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, by /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def flows_of(agent: Running, *arguments: str) -> list[dict[str, Any]]:
    said = agent.cli("tail", "--since", "5m", "--no-follow", "-o", "json", *arguments).stdout
    return [json.loads(line)["flow"] for line in said.splitlines()]


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Running]:
    found = Running(*arguments)
    try:
        found.start()
        yield found
    finally:
        found.close()
