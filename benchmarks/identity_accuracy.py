"""How often a name is wrong: flows of short-lived pods whose addresses are used again within milliseconds, against the truth.

Two nodes of the test cluster, the agent on one of them: pods of the other are known by address alone. Every pod lives about three
seconds. 5 to 50 ms after it ended the next pod is bound to its place, of another workload and with its address; 60 to 120 ms after
that it sends its first packet, and up to 0.3 s after being bound its address is told. An end is told up to 30 ms later; one in fifty successors is created before its predecessor ends. Clients dial pods, services
(DNAT) and go out through the node's own address (hostNetwork). Each answer says which pod gave it: that is the truth, for both ends
of what either end's socket reports. `latest owner` is the usual look-up for comparison: who had the address last, as told so far. Connection tracking is off, as by default.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidelight.agent import decode, layout
from sidelight.agent.core import Agent
from sidelight.agent.loader import Sizes, cgroup2_root, unload
from sidelight.agent.settings import AgentSettings, CaptureSettings
from sidelight.cli.demo import demo_cgroup
from sidelight.identity.kubernetes import KubernetesIndex
from sidelight.identity.model import Identity, Kind
from sidelight.identity.names import Address, address_of
from tests.cluster.cluster import CGROUP_SHAPES, Cluster, Pod, cluster

LIFETIME_S = 3.0
WORKLOAD = Path(__file__).with_name("identity_workload.py")


@dataclass
class Slot:
    """A place where pod follows pod: one network namespace, so one address."""

    base: Pod
    serves: bool
    service: str = ""
    pod: Pod | None = None
    number: int = 0


def run(flows: int = 220_000, lifetimes: int = 2200, clients: int = 14, seed: int = 1) -> dict[str, Any]:
    with (
        demo_cgroup(cgroup2_root()) as cgroup,
        tempfile.TemporaryDirectory(prefix="sidelight-accuracy-") as scratch,
        cluster(cgroup, Path(scratch), nodes=2) as found,
    ):
        return Run(found, Path(scratch), flows, lifetimes, clients, random.Random(seed)).run()


class Run:
    def __init__(
        self, found: Cluster, scratch: Path, flows: int, lifetimes: int, clients: int, chance: random.Random
    ) -> None:
        self.found, self.scratch, self.chance = found, scratch, chance
        self.flows, self.lifetimes, self.clients = flows, lifetimes, clients
        self.events: list[tuple[float, int, Any]] = []
        self.owner: dict[Address, str] = {}
        self.pods: dict[str, Pod] = {}
        self.reports: dict[str, tuple[Pod, Path]] = {}
        self.seen: list[tuple[int, bool, Identity, Identity, str, str]] = []
        self.next_number = 1
        self.lived = 0
        self.serial = 0
        self.reading = True

    def run(self) -> dict[str, Any]:
        # the servers' nodes by turns; services on the far node have one workload each
        slots = [Slot(self.found.pod("shop", f"slot{i}", announce=False, node=1 + i % 2), True) for i in range(6)]
        slots += [
            Slot(self.found.pod("shop", f"backend{i}", announce=False, node=2 - (i % 4 == 3)), True, f"srv{i // 2}")
            for i in range(4)
        ]
        slots += [
            Slot(self.found.pod("shop", f"client{i}", announce=False, node=1 + i % 2), False)
            for i in range(self.clients)
        ]
        slots += [
            Slot(self.found.pod("shop", f"host{i}", announce=False, node=1 + i, host_network=True), False)
            for i in range(2)
        ]
        settings = AgentSettings(
            cgroup=self.found.cgroup / "node-1", cgroup_root=cgroup2_root(), instance=f"accuracy-{self.found.tag}", keep_state=False,
            sizes=Sizes(ring_bytes=16 << 20), ring_bytes=512 << 20, kubernetes=True, node="node-1", cluster="bench",
            capture=CaptureSettings(ordinary_rate=10**6, priority_rate=10**6, connection_rate=0, payload_rate=0),
        )  # fmt: skip
        index = KubernetesIndex.connect(kubeconfig=str(self.found.api.kubeconfig()), node="node-1", cluster="bench")
        agent = Agent(settings, index)
        index.start()
        agent.start()
        zygote = subprocess.Popen(
            [sys.executable, "-I", str(WORKLOAD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        reader = threading.Thread(target=self._read, args=(agent,))
        reader.start()
        try:
            index.wait_synced(10)
            self._drive(slots, zygote)
        finally:
            zygote.kill()
            zygote.wait()
            time.sleep(3.0)  # flows that wait for a name
            self.reading = False
            reader.join()
            kernel = agent.snapshot().kernel
            lost = kernel["lost_event_ring_full"] + kernel["lost_http_sync"]
            agent.stop()
            index.stop()
            unload(settings.instance)
            shutil.rmtree(settings.state / settings.instance, ignore_errors=True)
        return self._judge(lost)

    # -- the cluster's life --------------------------------------------------------------------------------------

    def _at(self, after_s: float, action: Any) -> None:
        self.serial += 1
        heapq.heappush(self.events, (time.monotonic() + after_s, self.serial, action))

    def _drive(self, slots: list[Slot], zygote: subprocess.Popen[str]) -> None:
        self.zygote = zygote
        by_id = {}
        for slot in slots:
            for service in [s for s in {slot.service} if s]:
                self.found.service(
                    "shop",
                    service,
                    f"10.96.1.{1 + int(service[3:])}",
                    80,
                    [s.base for s in slots if s.service == service],
                    8080,
                )
            by_id[slot.base.name] = slot
        self.slots = slots
        for slot in slots:
            self._begin(slot) if slot.serves else self._at(0.5, lambda slot=slot: self._begin(slot))
        finished: list[str] = []
        threading.Thread(
            target=lambda: [finished.append(line.strip()) for line in zygote.stdout or ()], daemon=True
        ).start()
        while any(slot.pod for slot in slots) or self.events:
            while finished:
                self._ended(by_id[finished.pop(0)])
            if self.events and self.events[0][0] <= time.monotonic():
                heapq.heappop(self.events)[2]()
            else:
                time.sleep(0.001)

    def _born(self, slot: Slot) -> Pod:
        """The next pod of a slot is created: bound to its node, without an address."""
        workload = slot.service or f"app{self.chance.randrange(40)}"
        version = f"v{self.chance.randrange(1, 3)}"
        uid, container = str(uuid.UUID(int=self.chance.getrandbits(128))), secrets.token_hex(32)
        shape = self.chance.choice(["systemd", "cgroupfs", "guaranteed", "besteffort-crio"])
        scope = f"{slot.base.node.name}/" + CGROUP_SHAPES[shape].format(
            uid=uid, slice=uid.replace("-", "_"), container=container
        )
        owner = {"kind": "StatefulSet", "name": workload, "uid": workload, "controller": True}
        pod = replace(
            slot.base,
            name=f"{workload}-{secrets.token_hex(4)}",
            uid=uid,
            container=container,
            scope=scope,
            owner=owner,
            labels={"app": workload, "version": version},
        )
        self.pods[pod.name] = pod
        self._tell(pod, "Pending")
        return pod

    def _tell(self, pod: Pod, phase: str = "Running", *, deleting: bool = False, terminated: bool = False) -> None:
        running = phase == "Running"
        state = {"terminated": {"reason": "Completed"}} if terminated else {"running": {}}
        if running and not pod.host_network and not deleting:
            self.owner[address_of(pod.ip)] = pod.name
        self.found.api.put("pods", {
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "labels": pod.labels, "ownerReferences": [pod.owner],
                         **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})},
            "spec": {"nodeName": pod.node.name, **({"hostNetwork": True} if pod.host_network else {})},
            "status": {"phase": phase, **({"podIP": pod.ip, "podIPs": [{"ip": pod.ip}]} if running else {}),
                       "containerStatuses": [{"name": "main", "containerID": f"x://{pod.container}", "state": state}] if running else []},
        })  # fmt: skip

    def _begin(self, slot: Slot, pod: Pod | None = None) -> None:
        if self.lived >= self.lifetimes and self.next_number > self.flows:
            slot.pod = None
            return
        self.lived += 1
        slot.pod = pod = pod or self._born(slot)
        (self.found.cgroup / pod.scope).mkdir(parents=True)
        seconds = LIFETIME_S * self.chance.uniform(0.7, 1.3) * (1.5 if slot.serves else 1)
        report = self.scratch / f"{pod.name}.json"
        order: dict[str, Any] = {
            "id": slot.base.name, "pod": pod.name, "serves": slot.serves, "cgroup": str(self.found.cgroup / pod.scope),
            "netns": pod.netns, "seconds": seconds, "report": str(report), "port": 8080, "start": self.chance.uniform(0.06, 0.12),
        }  # fmt: skip
        if not slot.serves:
            alive = [s for s in self.slots if s.serves and s.pod]
            targets = [(s.base.ip, 8080) for s in self.chance.sample(alive, min(4, len(alive)))]
            targets += [(f"10.96.1.{1 + k}", 80) for k in range(2)]
            most = max(1, self.flows // max(1, int(self.lifetimes * 0.6)))
            order |= {"first": self.next_number, "targets": targets, "most": most, "pause": seconds / most * 0.5}
            self.next_number += most
            self.reports[pod.name] = (pod, report)
        self.zygote.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
        self.zygote.stdin.flush()  # type: ignore[union-attr]
        self._at(self.chance.uniform(0.0, 0.3), lambda: self._tell(pod))
        self._at(
            max(0.35, seconds - self.chance.uniform(0.1, 0.5)),
            lambda: self._tell(pod, deleting=True) if slot.pod is pod else None,
        )
        if slot.service:
            self._slice(slot.service)

    def _slice(self, service: str) -> None:
        known = self.found._services[f"shop/{service}"]
        pods = [slot.pod or slot.base for slot in self.slots if slot.service == service]
        self.found.api.put("endpointslices", {
            "metadata": {"name": f"{service}-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": service}, "uid": known["slice"]},
            "endpoints": [{"addresses": [pod.ip], "targetRef": {"kind": "Pod", "name": pod.name, "uid": pod.uid}} for pod in pods], "ports": [{"port": 8080}],
        })  # fmt: skip

    def _ended(self, slot: Slot) -> None:
        """Its processes are gone: the kubelet tells, the address is free, the next pod comes."""
        pod = slot.pod
        assert pod is not None
        slot.pod = None
        scope = self.found.cgroup / pod.scope
        self._at(0.1, lambda: remove(scope))
        self._at(self.chance.uniform(0.0, 0.03), lambda: self._tell(pod, deleting=True, terminated=True))
        self._at(self.chance.uniform(0.05, 0.3), lambda: self.found.api.delete("pods", pod.uid))
        slot.number += 1
        slot.pod = pod  # the slot is not free until the next one begins
        if slot.number % 50 == 49:  # surge: created before its predecessor ended, as far as anybody was told
            self._begin_again(slot, self._born(slot))
        else:
            self._begin_again(slot, None)

    def _begin_again(self, slot: Slot, successor: Pod | None) -> None:
        self._at(self.chance.uniform(0.005, 0.05), lambda: self._begin(slot, successor))

    # -- what the agent says -------------------------------------------------------------------------------------

    def _read(self, agent: Agent) -> None:
        position = 0
        while self.reading:
            batches, following, missed = agent.flows.read(position, 0.2)
            assert not missed
            for first, batch in batches:
                for at in range(max(0, position - first), len(batch)):
                    event = batch.events[at]
                    if event["type"] != decode.REQUEST:
                        continue
                    names = batch.names[batch.name_of[at]]
                    number = int(batch.texts[at].path[1:] or 0)
                    naive = [
                        self.owner.get(
                            event[field].tobytes() if field == "local" else event["key"]["remote"].tobytes(), ""
                        )
                        for field in ("local", "remote")
                    ]
                    self.seen.append(
                        (number, event["key"]["role"] == layout.ROLE_CLIENT, names.local, names.remote, *naive)
                    )
            position = following

    def _judge(self, lost: int) -> dict[str, Any]:
        truth: dict[int, tuple[Pod, Pod]] = {}
        for pod, report in self.reports.values():
            if report.exists():
                for number, server in json.loads(report.read_text()):
                    truth[number] = (pod, self.pods[server])
        rows = {end: Counter[str]() for end in ("local end", "remote end")}
        naive = {end: Counter[str]() for end in rows}
        for number, is_client, local, remote, naive_local, naive_remote in self.seen:
            if number not in truth:
                continue
            client, server = truth[number]
            for end, found, said, pod, seen_remotely in (
                ("local end", local, naive_local, client if is_client else server, False),
                ("remote end", remote, naive_remote, server if is_client else client, True),
            ):
                rows[end][verdict(found, pod, seen_remotely)] += 1
                naive[end]["right" if said == pod.name else "wrong" if said else "unresolved: no owner"] += 1
        found: dict[str, Any] = {
            "flows": len(truth), "pod_lifetimes": self.lived,
            "flows_of_the_node": sum("node-1" in (client.node.name, server.node.name) for client, server in truth.values()),
            "of_them_seen": len({number for number, *_ in self.seen if number in truth}), "events_lost": lost,
        }  # fmt: skip
        for title, counts in (("Sidelight", rows), ("latest owner of the address", naive)):
            for end, counter in counts.items():
                total = max(1, sum(counter.values()))
                unresolved = {
                    name.partition(": ")[2]: n for name, n in counter.items() if name.startswith("unresolved")
                }
                found[f"{title}, {end}"] = {
                    "ends": total, "right": counter["right"] + counter["right: workload"], "by workload only": counter["right: workload"],
                    "wrong": counter["wrong"], "unresolved": sum(unresolved.values()),
                    "unresolved %": round(100 * sum(unresolved.values()) / total, 3), "wrong %": round(100 * counter["wrong"] / total, 3),
                    "reasons": "; ".join(f"{name} {n}" for name, n in unresolved.items()) or "-",
                }  # fmt: skip
        return found


def remove(scope: Path) -> None:
    """A container's cgroup and its pod's."""
    for path in (scope, scope.parent):
        with contextlib.suppress(OSError):
            path.rmdir()


def verdict(found: Identity, pod: Pod, seen_remotely: bool) -> str:
    """right, right: workload (a service's backend without the pod), wrong, or unresolved with the reason."""
    if pod.host_network and seen_remotely and found.kind is Kind.NODE:
        return "right" if found.name == pod.node.name else "wrong"  # its address is the node's, which names no pod
    if found.kind is Kind.POD and not found.reason:
        return "right" if found.name == pod.name else "wrong"
    if found.kind is Kind.SERVICE and found.workload != "unknown":
        return "right: workload" if found.workload == pod.labels["app"] else "wrong"
    return f"unresolved: {found.reason or found.kind}"


if __name__ == "__main__":
    print(json.dumps(run(*(int(argument) for argument in sys.argv[1:])), indent=2))
