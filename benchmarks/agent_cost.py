"""What the agent costs: CPU and memory at several request rates, and the time to the first named flow."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.load import bench
from sidelight.agent import loader
from sidelight.cli.demo import free_port

# one connection asks, waits ten milliseconds, asks again
PACED = "function delay() return 9 end\n"


def run(seconds: float = 5.0, rates: tuple[int, ...] = (0, 1000, 10_000, 50_000)) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with bench() as place:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "sidelight.cli.main",
            "agent",
            "--cgroup",
            str(place.cgroup),
            "--instance",
            place.instance,
        ]
        began = time.monotonic()
        process = subprocess.Popen([*command, "--metrics-listen", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
        try:
            wait_ready(port)
            found["seconds_to_ready"] = round(time.monotonic() - began, 2)
            for rate in rates:
                cpu, start, requests = _cpu(process.pid), time.monotonic(), 0.0
                if rate:
                    requests = place.wrk(seconds, connections=max(1, rate // 100), script=PACED)[1]
                else:
                    time.sleep(seconds)
                elapsed = time.monotonic() - start
                found[f"about {rate} requests a second"] = {
                    "requests_a_second": round(requests / elapsed),
                    "cpu_percent_of_a_core": round((_cpu(process.pid) - cpu) / elapsed * 100, 2),
                    "rss_mb": round(_rss(process.pid) / 1e6, 1),
                }
        finally:
            process.terminate()
            process.wait()
            loader.unload(place.instance)
            import shutil

            shutil.rmtree(Path("/run/sidelight") / place.instance, ignore_errors=True)
    return found


def wait_ready(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
            return
        time.sleep(0.02)
    raise RuntimeError("the agent did not become ready")


def _cpu(pid: int) -> float:
    """CPU seconds of a process, by /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
