"""Half an hour at half load with pods that come and go: does memory grow, do the books stay balanced, is anything left behind?

`python -m benchmarks.soak [MINUTES]`; not part of `make bench`, whose minutes it would take. Clients of one process each are started in
new cgroups all the time, at half the rate that the machine reaches; two pods a second are replaced at the API server. Each minute the
audit is asked and memory, descriptors and kernel objects are counted; at the end the requests are compared with the clients' own count.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.agent_cost import cluster, knowing, spawned, wait_ready
from benchmarks.load import Bench, bench
from sidelight.cli.demo import _rmdir, free_port
from tests.cluster.apiserver import ApiServer
from tests.running import SIDELIGHT, cpu_seconds, rss_mb

PODS, ASKED = 200, 64
"""Pods in all, and those that the clients ask; the others come and go."""
LOAD_S = 10.0
"""Length of one client's life."""
SETTLED_S = 600.0
"""Memory is still filling its rings and caches before."""


def run(minutes: float = 30.0, every_s: float = 60.0) -> dict[str, Any]:
    before = kernel_objects()
    with bench(server_observed=False) as place, cluster(PODS) as api:
        found = _soak(place, api, minutes * 60, every_s)
    found["kernel_objects_left"] = len(kernel_objects() - before)
    found["cgroups_left"] = len(list(place.cgroup.parent.glob("sidelight-bench-*")))
    return found


def _soak(place: Bench, api: ApiServer, seconds: float, every_s: float) -> dict[str, Any]:
    port, stop = free_port(), threading.Event()
    samples: list[dict[str, float]] = []
    with spawned(place.cgroup, place.instance, port, *knowing(api)) as process, contextlib.ExitStack() as stack:
        stack.callback(stop.set)
        wait_ready(port)
        most = place.fixed_rate(0, 3, ASKED, ASKED)
        sent, rate = most["requests"] + 1, most["requests"] / 3 / 2  # and the one that asks for the length
        failed = most["failed"]
        churn = threading.Thread(target=_churn, args=(api, stop))
        churn.start()
        began, last, clients = time.monotonic(), 0.0, 0
        cpu = cpu_seconds(process.pid)
        while (now := time.monotonic() - began) < seconds:
            said = place.fixed_rate(rate, min(LOAD_S, seconds), ASKED, ASKED, name=f"client-{clients}")
            _rmdir(place.cgroup / f"client-{clients}")
            clients += 1
            sent, failed = sent + said["requests"] + 1, failed + said["failed"]
            if now - last >= every_s or not samples:
                last = now
                samples.append(_sample(place, process, now))
                print(json.dumps(samples[-1]), file=sys.stderr, flush=True)
        elapsed = time.monotonic() - began
        spent = cpu_seconds(process.pid) - cpu
        stop.set()
        churn.join()
        time.sleep(3)
        samples.append(_sample(place, process, time.monotonic() - began))
        counted = _requests(port)
    late = [sample for sample in samples if sample["seconds"] >= min(SETTLED_S, seconds / 2)]
    times, memory = (np.array([sample[name] for sample in late]) for name in ("seconds", "rss_mb"))
    slope = float(np.polyfit(times / 3600, memory, 1)[0]) if len(late) > 2 else 0.0
    return {
        "minutes": round(elapsed / 60, 1),
        "requests_a_second": round(sent / elapsed),
        "requests_sent": round(sent),
        "requests_failed": round(failed),
        "requests_counted": round(counted),
        "clients": clients,
        "audits": len(samples),
        "audits_that_held": sum(int(sample["balanced"]) for sample in samples),
        "cpu_percent_of_a_core": round(spent / elapsed * 100, 2),
        "rss_mb_at_first": samples[0]["rss_mb"],
        "rss_mb_at_last": samples[-1]["rss_mb"],
        "rss_mb_an_hour": round(slope, 2),
        "descriptors_at_first": samples[0]["descriptors"],
        "descriptors_at_last": samples[-1]["descriptors"],
        "kernel_objects_at_first": samples[0]["kernel_objects"],
        "kernel_objects_at_last": samples[-1]["kernel_objects"],
        "series": [[round(sample["seconds"]), sample["rss_mb"]] for sample in samples],
    }


def _sample(place: Bench, process: subprocess.Popen[bytes], now: float) -> dict[str, float]:
    audit = subprocess.run([*SIDELIGHT, "audit", "--instance", place.instance], capture_output=True, check=False)
    return {
        "seconds": round(now, 1),
        "rss_mb": round(rss_mb(process.pid), 2),
        "balanced": float(audit.returncode == 0),
        "descriptors": len(list(Path(f"/proc/{process.pid}/fd").iterdir())),
        "kernel_objects": len(kernel_objects()),
    }


def _churn(api: ApiServer, stop: threading.Event) -> None:
    """Two pods a second go and come back under another name, at addresses above those that are asked."""
    number = 0
    while not stop.wait(0.5):
        for uid, item in list(api._objects["pods"].items())[ASKED : ASKED + 1]:
            api.delete("pods", uid)
            item = json.loads(json.dumps(item))
            item["metadata"] = {"name": f"again-{number}", "namespace": "shop"}
            item["status"]["podIP"] = item["status"]["podIPs"][0]["ip"] = (
                f"10.99.{128 + number // 250 % 100}.{number % 250}"
            )
            api.put("pods", item)
        number += 1


def _requests(port: int) -> float:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "sidelight_seen_total" and sample.labels.get("item") == "responses":
                return float(sample.value)
    raise RuntimeError("no count of responses")


def kernel_objects() -> set[tuple[str, int]]:
    """(kind, number) of the machine's BPF programs, maps and links, by bpftool."""
    found = set()
    for kind in ("prog", "map", "link"):
        said = subprocess.run(["bpftool", "-j", kind, "show"], capture_output=True, check=True).stdout
        found |= {(kind, int(item["id"])) for item in json.loads(said or b"[]")}
    return found


def main() -> int:
    from benchmarks.report import keep

    found = run(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
    print(json.dumps({name: value for name, value in found.items() if name != "series"}, indent=1))
    keep("soak", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
