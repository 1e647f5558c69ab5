"""A cluster on one machine: network namespaces as nodes and pods, cgroups in the kubelet's shapes, nftables as kube-proxy,
real servers in the pods, a DNS server, a host outside, and an API server that tells of them.

    fabric 10.213.0.0/24 ── node i 10.213.0.(10+i) ── its bridge 10.214.i.1/24 ── pods
                         └─ outside 198.51.100.10
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
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
OUTSIDE = "198.51.100.10"
DNS_IP = "10.96.0.53"
_BURSTABLE = (
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{container}.scope"
)
CGROUP_SHAPES = {
    "systemd": _BURSTABLE,
    "cgroupfs": "kubepods/burstable/pod{uid}/{container}",
    "guaranteed": "kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-{container}.scope",
    "besteffort-crio": "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/crio-{container}.scope",
    "kind": "system.slice/docker-" + "ab" * 32 + ".scope/kubelet.slice/kubelet-" + _BURSTABLE.replace("/kubepods", "/kubelet-kubepods"),
    "k3s": "system.slice/k3s.service/" + _BURSTABLE,
}  # fmt: skip
"""Where kubelets and runtimes put a container: driver, QoS class, runtime, nesting."""


@dataclass
class Node:
    """`netns` is the host's network; `cgroup` its tree's root, below the cluster's."""

    name: str
    ip: str
    netns: str
    number: int


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
    node: Node
    owner: dict[str, Any]
    host_network: bool = False
    annotations: dict[str, str] = field(default_factory=dict)
    ephemeral: list[dict[str, str]] = field(default_factory=list)


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr} {text}")


def _ip(netns: str, *lines: str) -> None:
    """`ip` commands in a namespace, in one process."""
    _run("ip", *(("-n", netns) if netns else ()), "-batch", "-", text="\n".join(lines) + "\n")


def _nft(netns: str, rules: list[str]) -> None:
    _run("ip", "netns", "exec", netns, "nft", "-f", "-", text="\n".join(rules) + "\n")


@dataclass
class Cluster:
    """Everything is named after this process, and taken down by close()."""

    cgroup: Path
    scratch: Path
    node_count: int = 1
    api: ApiServer = field(init=False)
    pods: dict[str, Pod] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    zone: dict[str, list[list[Any]]] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)
    _services: dict[str, dict[str, Any]] = field(default_factory=dict)
    _last_ip: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tag = f"slc{os.getpid() % 100000}"
        self.fabric, self.outside = f"{self.tag}h", f"{self.tag}x"
        self.processes = Processes(self.cgroup)
        self.api = ApiServer(self.scratch)
        self.api.start()
        _ip("", f"netns add {self.fabric}", f"netns add {self.outside}")
        _ip(
            self.fabric,
            "link add br0 type bridge", "addr add 10.213.0.1/24 dev br0", "link set br0 up", "link set lo up",
            f"link add out type veth peer name eth0 netns {self.outside}", "addr add 198.51.100.1/24 dev out", "link set out up",
        )  # fmt: skip
        _ip(self.outside, f"addr add {OUTSIDE}/24 dev eth0", "link set eth0 up", "link set lo up", "route add default via 198.51.100.1")  # fmt: skip
        self._sysctl(self.fabric, "net.ipv4.ip_forward=1")
        for _ in range(self.node_count):
            self._add_node()

    @staticmethod
    def _sysctl(netns: str, setting: str) -> None:
        _run("ip", "netns", "exec", netns, "sysctl", "-q", setting)

    def _add_node(self) -> None:
        number = len(self.nodes) + 1
        node = Node(f"node-{number}", f"10.213.0.{10 + number}", f"{self.tag}n{number}", number)
        _ip("", f"netns add {node.netns}")
        _ip(
            self.fabric,
            f"link add n{number} type veth peer name eth0 netns {node.netns}", f"link set n{number} master br0 up",
            f"route add 10.214.{number}.0/24 via {node.ip}",
        )  # fmt: skip
        _ip(
            node.netns,
            f"addr add {node.ip}/24 dev eth0", "link set eth0 up", "link set lo up", "route add default via 10.213.0.1",
            "link add cni0 type bridge", f"addr add 10.214.{number}.1/24 dev cni0", "link set cni0 up",
        )  # fmt: skip
        self._sysctl(node.netns, "net.ipv4.ip_forward=1")
        self.nodes.append(node)
        self._last_ip[node.name] = 9
        (self.cgroup / node.name).mkdir(exist_ok=True)
        self.api.put("nodes", {
            "metadata": {"name": node.name, "labels": {"topology.kubernetes.io/zone": f"z{number}"}},
            "status": {"addresses": [{"type": "InternalIP", "address": node.ip}, {"type": "Hostname", "address": node.name}]},
        })  # fmt: skip
        self._proxy(node)

    # -- pods ----------------------------------------------------------------------------------------------------

    def owner(self, namespace: str, deployment: str) -> tuple[str, str]:
        """(name, uid) of a Deployment's ReplicaSet."""
        digest = f"{abs(hash((namespace, deployment))) % 10**8:08x}"
        name = f"{deployment}-{digest}"
        if name not in self._owners:
            reference = {"kind": "Deployment", "name": deployment, "uid": str(uuid.uuid4()), "controller": True}
            self._owners[name] = self.api.put("replicasets", {"metadata": {"name": name, "namespace": namespace, "ownerReferences": [reference]}})  # fmt: skip
        return name, self._owners[name]

    def pod(
        self, namespace: str, app: str, *, version: str = "v1", ip: str = "", announce: bool = True, node: int = 1,
        shape: str = "systemd", host_network: bool = False, static: bool = False,
    ) -> Pod:  # fmt: skip
        """A pod of a Deployment named after app and version, without a process yet. `node` counts from 1."""
        where = self.nodes[node - 1]
        deployment = app if version == "v1" else f"{app}-{version}"
        replica_set, owner_uid = self.owner(namespace, deployment)
        suffix = secrets.token_hex(3)
        uid, container = str(uuid.uuid4()), secrets.token_hex(32)
        netns = f"{self.tag}{suffix}"
        if host_network:
            ip, netns = where.ip, where.netns
        else:
            if not ip:
                self._last_ip[where.name] += 1
                ip = f"10.214.{where.number}.{self._last_ip[where.name]}"
            _ip("", f"netns add {netns}")
            _ip(where.netns, f"link add v{suffix} type veth peer name eth0 netns {netns}", f"link set v{suffix} master cni0 up")  # fmt: skip
            _ip(netns, f"addr add {ip}/24 dev eth0", "link set eth0 up", "link set lo up", f"route add default via 10.214.{where.number}.1")  # fmt: skip
            self._resolv_conf(netns, namespace)
        labels = {"app": app, "version": version, "pod-template-hash": replica_set.rpartition("-")[2]}
        owner = {"kind": "ReplicaSet", "name": replica_set, "uid": owner_uid, "controller": True}
        name, annotations, kubelet_uid = f"{replica_set}-{suffix}", {}, uid
        if static:
            kubelet_uid = secrets.token_hex(16)
            name, owner = f"{app}-{where.name}", {"kind": "Node", "name": where.name, "uid": where.name, "controller": True}  # fmt: skip
            annotations = {"kubernetes.io/config.hash": kubelet_uid, "kubernetes.io/config.mirror": kubelet_uid}
        scope = f"{where.name}/" + CGROUP_SHAPES[shape].format(
            uid=kubelet_uid, slice=kubelet_uid.replace("-", "_"), container=container
        )
        (self.cgroup / scope).mkdir(parents=True)
        pod = Pod(name, namespace, ip, uid, container, netns, scope, labels, where, owner, host_network, annotations)
        self.pods[pod.name] = pod
        if announce:
            self.announce(pod)
        return pod

    @staticmethod
    def _resolv_conf(netns: str, namespace: str) -> None:
        """As the kubelet writes it; `ip netns exec` mounts it."""
        home = Path("/etc/netns") / netns
        home.mkdir(parents=True, exist_ok=True)
        search = f"{namespace}.svc.cluster.local svc.cluster.local cluster.local"
        (home / "resolv.conf").write_text(f"nameserver {DNS_IP}\nsearch {search}\noptions ndots:5 timeout:2\n")

    def announce(self, pod: Pod, phase: str = "Running") -> None:
        """Tells the API server, as the kubelet does."""
        prefix = "cri-o" if "crio-" in pod.scope else "containerd"
        self.api.put("pods", {
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "labels": pod.labels,
                         "annotations": pod.annotations, "ownerReferences": [pod.owner]},
            "spec": {"nodeName": pod.node.name, **({"hostNetwork": True} if pod.host_network else {})},
            "status": {"phase": phase, "podIP": pod.ip, "podIPs": [{"ip": pod.ip}],
                       "containerStatuses": [{"name": "main", "containerID": f"{prefix}://{pod.container}"}],
                       "ephemeralContainerStatuses": pod.ephemeral},
        })  # fmt: skip

    def ephemeral_container(self, pod: Pod, name: str) -> str:
        """`kubectl debug`: one more container in the pod. Returns its cgroup."""
        container = secrets.token_hex(32)
        scope = pod.scope.replace(pod.container, container)
        (self.cgroup / scope).mkdir(parents=True)
        pod.ephemeral.append({"name": name, "containerID": f"containerd://{container}"})
        self.announce(pod)
        return scope

    def run(self, pod: Pod, *command: str, scope: str = "", **more: Any) -> subprocess.Popen[bytes]:
        return self.processes.start(scope or pod.scope, ["ip", "netns", "exec", pod.netns, *command], **more)

    def python(self, pod: Pod, script: Path, *arguments: object) -> subprocess.Popen[bytes]:
        return self.run(pod, sys.executable, "-I", str(script), *map(str, arguments))

    def python_outside(self, script: Path, *arguments: object) -> subprocess.Popen[bytes]:
        """A server on the host outside the cluster, in no observed node's cgroup."""
        return self.processes.start("outside", ["ip", "netns", "exec", self.outside, sys.executable, "-I", str(script), *map(str, arguments)])  # fmt: skip

    def delete(self, pod: Pod) -> None:
        self.api.delete("pods", pod.uid)
        if not pod.host_network:
            _ip("", f"netns del {pod.netns}")
            shutil.rmtree(Path("/etc/netns") / pod.netns, ignore_errors=True)
        del self.pods[pod.name]

    # -- services ------------------------------------------------------------------------------------------------

    def service(
        self,
        namespace: str,
        name: str,
        cluster_ip: str,
        port: int,
        backends: list[Pod],
        target: int,
        *,
        node_port: int = 0,
    ) -> None:
        """A Service with its slice, and kube-proxy's rules on every node."""
        key = f"{namespace}/{name}"
        known = self._services.get(key, {})
        ports = [{"port": port, "targetPort": target, **({"nodePort": node_port} if node_port else {})}]
        selector = dict(set.intersection(*(set(pod.labels.items()) for pod in backends)) if backends else ())
        uid = self.api.put("services", {
            "metadata": {"name": name, "namespace": namespace, **({"uid": known["uid"]} if known else {})},
            "spec": {"type": "NodePort" if node_port else "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": ports, "selector": selector},
            "status": {},
        })  # fmt: skip
        endpoints = [
            {"addresses": [pod.ip], "targetRef": {"kind": "Pod", "name": pod.name, "uid": pod.uid}, "zone": f"z{pod.node.number}", "nodeName": pod.node.name}
            for pod in backends
        ]  # fmt: skip
        slice_uid = self.api.put("endpointslices", {
            "metadata": {"name": f"{name}-x", "namespace": namespace, "labels": {"kubernetes.io/service-name": name},
                         **({"uid": known["slice"]} if known else {})},
            "endpoints": endpoints, "ports": [{"port": target}],
        })  # fmt: skip
        self._services[key] = {
            "uid": uid, "slice": slice_uid, "ip": cluster_ip, "port": port, "target": target, "backends": backends, "node_port": node_port,
        }  # fmt: skip
        self.resolves(f"{name}.{namespace}.svc.cluster.local", "A", cluster_ip)
        for node in self.nodes:
            self._proxy(node)

    def external_name(self, namespace: str, name: str, target: str) -> None:
        """A Service of type ExternalName, and what the cluster's DNS says for it."""
        self.api.put("services", {"metadata": {"name": name, "namespace": namespace}, "spec": {"type": "ExternalName", "externalName": target}, "status": {}})  # fmt: skip
        self.resolves(f"{name}.{namespace}.svc.cluster.local", "CNAME", target)

    def resolves(self, name: str, kind: str, data: str, ttl: int = 30) -> None:
        self.zone[name] = [[kind, ttl, data]]
        fresh = self.scratch / "zone.new"
        fresh.write_text(json.dumps(self.zone))
        fresh.replace(self.scratch / "zone.json")

    def dns(self) -> Pod:
        """CoreDNS's place: a pod of namespace kube-system behind 10.96.0.53, UDP and TCP."""
        pod = self.pod("kube-system", "kube-dns")
        self.service("kube-system", "kube-dns", DNS_IP, 53, [pod], 53)
        self.python(pod, Path(__file__).with_name("dns_server.py"), "0.0.0.0", self.scratch / "zone.json")
        return pod

    def _proxy(self, node: Node) -> None:
        """kube-proxy of a node: ClusterIPs for pods and for the host itself, NodePorts with SNAT, masquerade to the outside."""
        dnat = []
        for service in self._services.values():
            if not service["backends"]:
                continue
            among = ", ".join(f"{i} : {pod.ip}" for i, pod in enumerate(service["backends"]))
            to = f"dnat to numgen inc mod {len(service['backends'])} map {{ {among} }} : {service['target']}"
            dnat += [f"ip daddr {service['ip']} {protocol} dport {service['port']} {to}" for protocol in ("tcp", "udp")]
            if service["node_port"]:
                dnat.append(f"ip daddr {node.ip} tcp dport {service['node_port']} mark set 0x4000 {to}")
        pods = f"10.214.{node.number}.0/24"
        _nft(node.netns, [
            "table ip proxy", "delete table ip proxy", "table ip proxy {",
            "chain pre {", "type nat hook prerouting priority -100;", *dnat, "}",
            "chain out {", "type nat hook output priority -100;", *dnat, "}",
            "chain post {", "type nat hook postrouting priority 100;", "meta mark 0x4000 masquerade",
            f"ip saddr {pods} ip daddr 198.51.100.0/24 masquerade", "}", "}",
        ])  # fmt: skip

    def close(self) -> None:
        self.processes.stop_all()
        self.api.stop()
        _remove_namespaces(self.tag)


def _namespaces() -> list[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False)
    return [line.split()[0] for line in done.stdout.splitlines() if line]


def _remove_namespaces(tag: str) -> None:
    for name in _namespaces():
        if name.startswith(tag):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


@contextlib.contextmanager
def cluster(cgroup: Path, scratch: Path, nodes: int = 1) -> Iterator[Cluster]:
    for name in _namespaces():  # of a run that died
        if name.startswith("slc") and name.endswith("h") and not Path(f"/proc/{name[3:-1]}").exists():
            _remove_namespaces(name[:-1])
    found = Cluster(cgroup, scratch, nodes)
    try:
        yield found
    finally:
        found.close()


SHOP_SERVER = Path(__file__).with_name("shop_server.py")


def shop(found: Cluster) -> dict[str, Pod]:
    """web -> cart -> redis, web -> catalogue v1 and v2, web -> payments -> an external name. web serves on port 8080.

    On several nodes the pods are dealt out in turn.
    """
    number = 0

    def pod(namespace: str, app: str, version: str = "v1") -> Pod:
        nonlocal number
        number += 1
        return found.pod(namespace, app, version=version, node=1 + number % found.node_count)

    found.dns()
    pods = {
        "redis": pod("shop", "redis"),
        "cart": pod("shop", "cart"),
        "catalogue-v1": pod("shop", "catalogue"),
        "catalogue-v2": pod("shop", "catalogue", "v2"),
        "payments": pod("shop", "payments"),
        "web": pod("shop", "web"),
        "load": pod("load", "generator"),
    }
    found.run(pods["redis"], "redis-server", "--port", "6379", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no", "--dir", str(found.scratch))  # fmt: skip
    found.service("shop", "redis", "10.96.0.10", 6379, [pods["redis"]], 6379)
    found.service("shop", "cart", "10.96.0.11", 80, [pods["cart"]], 8080)
    found.service("shop", "catalogue", "10.96.0.12", 80, [pods["catalogue-v1"], pods["catalogue-v2"]], 8080)
    found.service("shop", "web", "10.96.0.13", 80, [pods["web"]], 8080, node_port=30080)
    found.service("shop", "payments", "10.96.0.14", 80, [pods["payments"]], 8080)
    found.external_name("shop", "bank", "api.bank.example")
    found.resolves("api.bank.example", "A", OUTSIDE)
    found.python_outside(SHOP_SERVER, 80, "{}", found.scratch / "bank.count")
    for name, calls in (
        ("cart", {"/": ["redis:redis:6379"]}),
        ("catalogue-v1", {}),
        ("catalogue-v2", {"fail": 10}),
        ("payments", {"/": ["http:bank:80"]}),
        ("web", {"/": ["http:10.96.0.11:80", "http:10.96.0.12:80", "http:payments.shop:80"]}),
    ):
        found.python(pods[name], SHOP_SERVER, 8080, json.dumps(calls), found.scratch / f"{name}.count")
    return pods
