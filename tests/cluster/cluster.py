"""A cluster on one machine: network namespaces as pods on a bridge, cgroups in the kubelet's shapes, nftables as kube-proxy,
real servers in the pods, and an API server that tells of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidelight.cli.demo import Processes
from tests.cluster.apiserver import ApiServer

NODE = "node-1"
BRIDGE_IP = "10.214.0.1"


@dataclass
class Pod:
    """A running pod. `scope` is its container's cgroup, below the cluster's."""

    name: str
    namespace: str
    ip: str
    uid: str
    container: str
    netns: str
    scope: str
    labels: dict[str, str]


@dataclass
class Cluster:
    """Everything is named after this process, and taken down by close()."""

    cgroup: Path
    scratch: Path
    api: ApiServer = field(init=False)
    pods: dict[str, Pod] = field(default_factory=dict)
    _next_ip: int = 9
    _owners: dict[str, str] = field(default_factory=dict)
    _services: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tag = f"slc{os.getpid() % 100000}"
        self.host = f"{self.tag}h"
        self.processes = Processes(self.cgroup)
        self.api = ApiServer(self.scratch)
        self.api.start()
        self._run("ip", "netns", "add", self.host)
        self._host("ip", "link", "add", "br0", "type", "bridge")
        self._host("ip", "addr", "add", f"{BRIDGE_IP}/24", "dev", "br0")
        self._host("ip", "link", "set", "br0", "up")
        self._host("ip", "link", "set", "lo", "up")
        self._host("sysctl", "-q", "net.ipv4.ip_forward=1")
        node = {"metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": "z1"}},
                "status": {"addresses": [{"type": "InternalIP", "address": BRIDGE_IP}]}}  # fmt: skip
        self.api.put("nodes", node)

    @staticmethod
    def _run(*command: str, text: str = "") -> None:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")

    def _host(self, *command: str, text: str = "") -> None:
        self._run("ip", "netns", "exec", self.host, *command, text=text)

    # -- pods ----------------------------------------------------------------------------------------------------

    def owner(self, namespace: str, deployment: str) -> tuple[str, str]:
        """(name, uid) of a Deployment's ReplicaSet."""
        digest = f"{abs(hash((namespace, deployment))) % 10**8:08x}"
        name = f"{deployment}-{digest}"
        if name not in self._owners:
            reference = {"kind": "Deployment", "name": deployment, "uid": str(uuid.uuid4()), "controller": True}
            self._owners[name] = self.api.put("replicasets", {"metadata": {"name": name, "namespace": namespace, "ownerReferences": [reference]}})  # fmt: skip
        return name, self._owners[name]

    def pod(self, namespace: str, app: str, *, version: str = "v1", ip: str = "", announce: bool = True) -> Pod:
        """A pod of a Deployment named after app and version, without a process yet."""
        if not ip:
            self._next_ip += 1
            ip = f"10.214.0.{self._next_ip}"
        deployment = app if version == "v1" else f"{app}-{version}"
        replica_set, owner_uid = self.owner(namespace, deployment)
        suffix = secrets.token_hex(3)
        uid, container = str(uuid.uuid4()), secrets.token_hex(32)
        netns = f"{self.tag}{suffix}"
        self._run("ip", "netns", "add", netns)
        self._run(
            "ip", "-n", self.host, "link", "add", f"v{suffix}", "type", "veth", "peer", "name", "eth0", "netns", netns
        )
        self._host("ip", "link", "set", f"v{suffix}", "master", "br0", "up")
        for command in (("addr", "add", f"{ip}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                        ("link", "set", "lo", "up"), ("route", "add", "default", "via", BRIDGE_IP)):  # fmt: skip
            self._run("ip", "-n", netns, *command)
        scope = (
            f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice/"
            f"cri-containerd-{container}.scope"
        )
        (self.cgroup / scope).mkdir(parents=True)
        labels = {"app": app, "version": version, "pod-template-hash": replica_set.rpartition("-")[2]}
        pod = Pod(f"{replica_set}-{suffix}", namespace, ip, uid, container, netns, scope, labels)
        self.pods[pod.name] = pod
        if announce:
            self.announce(pod, replica_set, owner_uid)
        return pod

    def announce(self, pod: Pod, replica_set: str = "", owner_uid: str = "") -> None:
        """Tells the API server, as the kubelet does."""
        if not replica_set:
            replica_set = pod.name.rpartition("-")[0]
            owner_uid = self._owners[replica_set]
        reference = {"kind": "ReplicaSet", "name": replica_set, "uid": owner_uid, "controller": True}
        self.api.put("pods", {
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "labels": pod.labels, "ownerReferences": [reference]},
            "spec": {"nodeName": NODE},
            "status": {"phase": "Running", "podIP": pod.ip, "podIPs": [{"ip": pod.ip}],
                       "containerStatuses": [{"name": "main", "containerID": f"containerd://{pod.container}"}]},
        })  # fmt: skip

    def run(self, pod: Pod, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        return self.processes.start(pod.scope, ["ip", "netns", "exec", pod.netns, *command], **more)

    def python(self, pod: Pod, script: Path, *arguments: object) -> subprocess.Popen[bytes]:
        return self.run(pod, sys.executable, "-I", str(script), *map(str, arguments))

    def delete(self, pod: Pod) -> None:
        self.api.delete("pods", pod.uid)
        self._run("ip", "netns", "del", pod.netns)
        del self.pods[pod.name]

    # -- services ------------------------------------------------------------------------------------------------

    def service(self, namespace: str, name: str, cluster_ip: str, port: int, backends: list[Pod], target: int) -> None:
        """A Service with its slice, and kube-proxy's rules."""
        key = f"{namespace}/{name}"
        known = self._services.get(key, {})
        uid = self.api.put("services", {
            "metadata": {"name": name, "namespace": namespace, **({"uid": known["uid"]} if known else {})},
            "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": [{"port": port}]}, "status": {},
        })  # fmt: skip
        endpoints = [{"addresses": [pod.ip], "targetRef": {"kind": "Pod", "name": pod.name, "uid": pod.uid}, "zone": "z1"} for pod in backends]  # fmt: skip
        slice_uid = self.api.put("endpointslices", {
            "metadata": {"name": f"{name}-x", "namespace": namespace, "labels": {"kubernetes.io/service-name": name},
                         **({"uid": known["slice"]} if known else {})},
            "endpoints": endpoints, "ports": [{"port": target}],
        })  # fmt: skip
        self._services[key] = {"uid": uid, "slice": slice_uid, "ip": cluster_ip, "port": port, "target": target, "backends": backends}  # fmt: skip
        self._proxy()

    def _proxy(self) -> None:
        rules = [
            "table ip proxy",
            "delete table ip proxy",
            "table ip proxy {",
            "chain pre {",
            "type nat hook prerouting priority -100;",
        ]
        for service in self._services.values():
            if service["backends"]:
                among = ", ".join(f"{i} : {pod.ip}" for i, pod in enumerate(service["backends"]))
                rules.append(
                    f"ip daddr {service['ip']} tcp dport {service['port']} "
                    f"dnat to numgen inc mod {len(service['backends'])} map {{ {among} }} : {service['target']}"
                )
        self._host("nft", "-f", "-", text="\n".join([*rules, "}", "chain post {", "type nat hook postrouting priority 100;", "}", "}"]) + "\n")  # fmt: skip

    def close(self) -> None:
        self.processes.stop_all()
        self.api.stop()
        names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout.split()
        for name in names:
            if name.startswith(self.tag):
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def cluster(cgroup: Path, scratch: Path) -> Iterator[Cluster]:
    for line in subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, check=False
    ).stdout.splitlines():
        name = line.split()[0]
        if name.startswith("slc") and name.endswith("h") and not Path(f"/proc/{name[3:-1]}").exists():
            for other in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split():
                if other.startswith(name[:-1]):
                    subprocess.run(["ip", "netns", "del", other], capture_output=True, check=False)
    found = Cluster(cgroup, scratch)
    try:
        yield found
    finally:
        found.close()


SHOP_SERVER = Path(__file__).with_name("shop_server.py")


def shop(found: Cluster) -> dict[str, Pod]:
    """web -> cart -> redis, web -> catalogue v1 and v2. Returns the pods; web serves on port 8080."""
    pods = {
        "redis": found.pod("shop", "redis"),
        "cart": found.pod("shop", "cart"),
        "catalogue-v1": found.pod("shop", "catalogue"),
        "catalogue-v2": found.pod("shop", "catalogue", version="v2"),
        "web": found.pod("shop", "web"),
        "load": found.pod("load", "generator"),
    }
    found.run(pods["redis"], "redis-server", "--port", "6379", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no", "--dir", str(found.scratch))  # fmt: skip
    found.service("shop", "redis", "10.96.0.10", 6379, [pods["redis"]], 6379)
    found.service("shop", "cart", "10.96.0.11", 80, [pods["cart"]], 8080)
    found.service("shop", "catalogue", "10.96.0.12", 80, [pods["catalogue-v1"], pods["catalogue-v2"]], 8080)
    found.service("shop", "web", "10.96.0.13", 80, [pods["web"]], 8080)
    for name, calls in (
        ("cart", {"/": ["redis:10.96.0.10:6379"]}),
        ("catalogue-v1", {}),
        ("catalogue-v2", {"fail": 10}),
        ("web", {"/": ["http:10.96.0.11:80", "http:10.96.0.12:80"]}),
    ):
        found.python(pods[name], SHOP_SERVER, 8080, json.dumps(calls), found.scratch / f"{name}.count")
    return pods
