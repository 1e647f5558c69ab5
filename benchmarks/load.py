"""Load for the benchmarks: nginx and wrk in a cgroup, with or without the programs. Everything is taken down again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sidelight.agent import loader
from sidelight.agent.core import settings_record
from sidelight.agent.loader import LoadRequest, Pins, Sizes, cgroup2_root, run_loader
from sidelight.agent.settings import CaptureSettings
from sidelight.agent.source import ProgramCost, Source
from sidelight.cli.demo import NGINX, Processes, _find, _remove_cgroup, free_port, wait_for_port

SHORT = ("-H", "Connection: close")


class Bench:
    """A cgroup with nginx in it."""

    def __init__(self, cgroup: Path, scratch: Path) -> None:
        self.cgroup, self.scratch = cgroup, scratch
        self.instance = f"bench-{os.getpid()}"
        self.processes = Processes(cgroup)
        self.port = free_port()
        text = NGINX.format(home=scratch, web=self.port, shop=1).replace(
            "location = /stub", f"location /files {{ root {scratch}; }} location = /stub"
        )
        (scratch / "files").mkdir()
        (scratch / "files" / "large").write_bytes(b"x" * 1_000_000)
        scratch.chmod(0o755)
        (scratch / "nginx.conf").write_text(text)
        self.processes.start("nginx", [str(_find("nginx")), "-c", str(scratch / "nginx.conf")])
        wait_for_port(self.port)

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

    def wrk(
        self, seconds: float, *more: str, connections: int = 16, path: str = "/static", script: str = ""
    ) -> tuple[float, float]:
        """(requests a second, requests)."""
        extra = []
        if script:
            (self.scratch / "script.lua").write_text(script)
            extra = ["-s", str(self.scratch / "script.lua")]
        process = self.processes.start(
            "wrk",
            [
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{max(1, round(seconds))}s",
                *extra,
                *more,
                f"http://127.0.0.1:{self.port}{path}",
            ],
            stdout=subprocess.PIPE,
        )
        said = process.communicate()[0].decode()
        return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), float(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    cgroup = cgroup2_root() / f"sidelight-bench-{os.getpid()}"
    cgroup.mkdir()
    scratch = Path(tempfile.mkdtemp(prefix="sidelight-bench-"))
    found = None
    try:
        found = Bench(cgroup, scratch)
        yield found
    finally:
        if found:
            found.processes.stop_all()
            loader.unload(found.instance)
        _remove_cgroup(cgroup)
        shutil.rmtree(scratch, ignore_errors=True)


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


def interval(ratios: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """(median, low, high): a 95 % bootstrap interval of the median."""
    import random

    chooser = random.Random(1)
    medians = sorted(statistics.median(chooser.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(draws * 0.025)], medians[int(draws * 0.975)]
