"""What identities cost: listing, memory and look-ups with many pods, decoded slim from JSON as the watch does it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.agent_cost import spawned, wait_ready
from sidelight.agent.loader import cgroup2_root
from sidelight.cli.demo import demo_cgroup, free_port
from tests.cluster.apiserver import ApiServer


def run(pods: tuple[int, ...] = (1000, 10_000, 100_000)) -> dict[str, Any]:
    found = {}
    for count in pods:
        # a process of its own each: memory is measured from nothing
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.identity_scale", str(count)], capture_output=True, check=True
        )
        agent = whole_agent(count)
        found[f"{count} pods"] = {
            **json.loads(done.stdout),
            **{f"agent_{name}": value for name, value in agent.items()},
        }
    found["none"] = {f"agent_{name}": value for name, value in whole_agent(0).items()}
    return found


def whole_agent(count: int) -> dict[str, Any]:
    """An agent that lists `count` pods from an API server: memory and time until it is ready."""
    with demo_cgroup(cgroup2_root()) as cgroup, tempfile.TemporaryDirectory() as scratch:
        api = ApiServer(Path(scratch))
        for number in range(count):
            api.put("pods", json.loads(pod_json(number)))
        for number in range(500):
            owner = {"kind": "Deployment", "name": f"web-{number}", "uid": f"d{number}", "controller": True}
            api.put(
                "replicasets",
                {"metadata": {"name": f"web-{number}-7d4b9c", "uid": f"rs{number}", "ownerReferences": [owner]}},
            )
        api.compact()
        api.start()
        port, instance = free_port(), f"scale-{os.getpid()}"
        began = time.monotonic()
        try:
            with spawned(cgroup, instance, port, "--kubeconfig", str(api.kubeconfig())) as process:
                wait_ready(port)
                ready = time.monotonic() - began
                time.sleep(5.0)
                status = dict(
                    line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                )
                rss, peak = (int(status[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))
        finally:
            api.stop()
    return {"seconds_to_ready": round(ready, 2), "rss_mb": round(rss, 1), "peak_over_steady": round(peak / rss, 2)}


def pod_json(index: int) -> bytes:
    return json.dumps(
        {
            "metadata": {
                "name": f"web-{index % 500}-7d4b9c-{index:05x}", "namespace": f"ns{index % 50}", "uid": f"{index:08x}-0000-4000-8000-000000000000",
                "resourceVersion": str(index), "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": f"web-{index % 500}", "pod-template-hash": "7d4b9c", "version": "v1"},
                "annotations": {"checksum/config": "x" * 64, "kubectl.kubernetes.io/last-applied": "y" * 400},
                "ownerReferences": [{"kind": "ReplicaSet", "name": f"web-{index % 500}-7d4b9c", "uid": f"rs{index % 500}", "controller": True}],
            },
            "spec": {"nodeName": f"node-{index % 1000}", "containers": [{"name": "main", "image": "x" * 60, "env": [{"name": "A", "value": "b" * 100}] * 5}]},
            "status": {"phase": "Running", "podIP": _ip(index), "podIPs": [{"ip": _ip(index)}],
                       "containerStatuses": [{"name": "main", "containerID": f"containerd://{index:064x}"}]},
        }
    ).encode()  # fmt: skip


def _ip(index: int) -> str:
    return f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"


def measure(count: int) -> dict[str, float]:
    import msgspec

    from sidelight.identity import objects
    from sidelight.identity.index import Index
    from sidelight.identity.names import address_of

    index = Index()
    for number in range(500):
        raw = {
            "metadata": {
                "name": f"web-{number}-7d4b9c",
                "uid": f"rs{number}",
                "ownerReferences": [{"kind": "Deployment", "name": f"web-{number}", "uid": "d", "controller": True}],
            }
        }
        index.put("replicasets", msgspec.convert(raw, objects.OnlyMeta), 1.0)
    decoder = msgspec.json.Decoder(objects.Pod)
    before = _rss()
    spent = 0.0
    for number in range(count):
        raw_pod = pod_json(number)
        start = time.perf_counter()
        index.put("pods", decoder.decode(raw_pod), 2.0)
        spent += time.perf_counter() - start
    grown = _rss() - before
    addresses = [address_of(_ip(number)) for number in range(0, count, max(1, count // 1000))]
    start = time.perf_counter()
    for address in addresses * 10:
        index.owner(address, 0, 3.0)
    looked_up = time.perf_counter() - start
    start = time.perf_counter()
    for number in range(1000):
        index.put("pods", decoder.decode(pod_json(number)), 4.0)
    events = time.perf_counter() - start
    return {
        "seconds_to_take_in": round(spent, 2),
        "grown_mb": round(grown / 1e6, 1),
        "peak_over_steady": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _rss(), 2),
        "lookups_a_second": round(len(addresses) * 10 / looked_up),
        "percent_of_a_core_at_1000_events_a_second": round(events * 100, 1),
    }


def _rss() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
