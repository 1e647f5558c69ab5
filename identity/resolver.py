"""From what a flow carries (cgroup ids, an address, a port, a time) to identities of both ends.

The local end comes from its cgroup, never from its address. The remote end, in this order: the other end's own cgroup when it
is observed here, the cluster's index at the flow's time, a listener of this node, names the workload learned, /etc/hosts,
configured networks, else the world.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Protocol

from sidelight.identity.cgroup_path import CgroupPath, parse_cgroup_path
from sidelight.identity.model import EdgeNames, Identity, Kind, Provenance, ServiceName, unknown
from sidelight.identity.names import Address, CidrGroups, LearnedNames, address_text, is_loopback

ROLE_CLIENT = 1
PENDING = "pod not seen yet"
"""Reason of a pod whose object has not arrived: its flows are kept apart for a while (agent/books.py)."""
_CACHE_LIMIT = 100_000


class ClusterIndex(Protocol):
    """What the resolver asks of identity/index.py."""

    version: int

    def pod(self, uid: str, container_id: str) -> Identity | None: ...
    def owner(self, address: Address, port: int, at: float) -> Identity | None: ...
    def span(self, address: Address, at: float) -> tuple[float, float]: ...
    def unsettled(self, address: Address, now: float) -> bool: ...
    def service(self, address: Address, port: int, at: float) -> ServiceName | None: ...
    def service_of_pod(self, identity: Identity) -> ServiceName | None: ...
    def service_listing(self, address: Address) -> ServiceName | None: ...
    def backend(self, service: ServiceName, at: float) -> Identity | None: ...
    def external_service(self, host: str) -> tuple[ServiceName, str] | None: ...
    def pods_of(self, namespace: str) -> list[tuple[Identity, float]]: ...
    def explain(self, address: Address, port: int, at: float) -> list[dict[str, Any]]: ...


class Tree(Protocol):
    """What the resolver asks of identity/cgroups.py."""

    def path(self, cgroup_id: int) -> str | None: ...
    def processes(self, path: str) -> list[int]: ...


class Resolver:
    """Not thread-safe: the agent's one pipeline thread uses it. Results are cached until their sources change."""

    def __init__(
        self,
        tree: Tree,
        process_name: object,
        *,
        index: ClusterIndex | None = None,
        names: LearnedNames | None = None,
        hosts: dict[Address, str] | None = None,
        cidrs: CidrGroups | None = None,
        cluster: str = "",
        node: str = "",
        external_suffixes: tuple[str, ...] = (),
    ) -> None:
        """`external_suffixes`: DNS suffixes whose names may become metric labels; others are `world` there."""
        assert callable(process_name)
        self._tree = tree
        self._process_name = process_name
        self.index = index
        self.names = names or LearnedNames()
        self._hosts = hosts or {}
        self._cidrs = cidrs or CidrGroups()
        self._cluster, self._node = cluster, node
        self._suffixes = tuple(suffix.lstrip("*.").lower() for suffix in external_suffixes)
        self._locals: dict[int, Identity] = {}
        self._processes: dict[int, Identity] = {}
        self._edges: dict[tuple[int, int, Address, int, int], tuple[EdgeNames, float, float]] = {}
        self._edges_made_at = 0.0
        self._versions = (-1, -1)
        self._listeners: dict[tuple[bool, int], int] = {}
        self.resolutions: Counter[tuple[str, str]] = Counter()
        self.unresolved: Counter[str] = Counter()

    def local(self, cgroup_id: int) -> Identity:
        """Who owns a cgroup."""
        found = self._locals.get(cgroup_id)
        if found is None:
            found = self._local(cgroup_id)
            if len(self._locals) > _CACHE_LIMIT:
                self._locals.clear()
            if found.kind is Kind.PROCESS:
                # the processes of a cgroup change; when all have gone, the last name seen still holds
                if not found.workload:
                    found = self._processes.get(cgroup_id) or _directory_name(found)
                self._processes[cgroup_id] = found
            if found.kind is not Kind.UNKNOWN:
                self._locals[cgroup_id] = found
        return found

    def edge(
        self, cgroup_id: int, peer_cgroup_id: int, remote: Address, port: int, role: int, at: float, flows: int = 1
    ) -> EdgeNames:
        """Both ends at the time `at` (seconds since the epoch). `flows` weighs the resolution counters."""
        self._expire(at)
        key = (cgroup_id, peer_cgroup_id, remote, port, role)
        known = self._edges.get(key)
        if known is not None and known[1] <= at < known[2]:
            found = known[0]
        else:
            found = self._edge(cgroup_id, peer_cgroup_id, remote, port, role, at)
            if len(self._edges) > _CACHE_LIMIT:
                self._edges.clear()
            self._edges[key] = (found, *self.span(remote, at))
        for end, identity in (("local", found.local), ("remote", found.remote)):
            if identity.kind is Kind.UNKNOWN or identity.reason == PENDING:
                self.unresolved[identity.reason] += flows
            else:
                self.resolutions[(end, identity.provenance)] += flows
        return found

    @property
    def version(self) -> tuple[int, int]:
        """Grows with what is known of addresses: of the cluster, and learnt. The same version gives the same names."""
        return self.index.version if self.index else 0, self.names.version

    def known_to_cluster(self, address: Address, port: int, at: float) -> bool:
        """Is it a pod's, a node's or a service's address?"""
        return self.index is not None and (
            self.index.owner(address, port, at) is not None or self.index.service(address, port, at) is not None
        )

    def span(self, remote: Address, at: float) -> tuple[float, float]:
        """From when until when a remote address means what it means at `at`."""
        return self.index.span(remote, at) if self.index else (float("-inf"), float("inf"))

    def explain(self, address: Address, port: int, at: float) -> dict[str, Any]:
        """How an address is decided, each source in the order it is asked; `chosen` is the first that knew."""
        asked: list[dict[str, Any]] = []
        if self.index:
            asked += self.index.explain(address, port, at)
        for (cgroup, known), learned in self.names.items():
            if known == address:
                asked.append(
                    {
                        "source": str(learned.provenance),
                        "name": learned.name,
                        "by": self.local(cgroup).display,
                        "valid": learned.until >= at,
                    }
                )
        if name := self._hosts.get(address):
            asked.append({"source": "hosts-file", "name": name, "valid": True})
        if name := self._cidrs.find(address):
            asked.append({"source": "cidr", "name": name, "valid": True})
        found = self._remote(
            0, address, port, ROLE_CLIENT, at, self.index.service(address, port, at) if self.index else None
        )
        return {
            "address": address_text(address),
            "at": at,
            "chosen": {
                "name": found.display,
                "kind": str(found.kind),
                "provenance": str(found.provenance),
                "reason": found.reason,
                "pod": found.name if found.kind is Kind.POD else "",
                "node": found.node,
            },
            "candidates": asked,
        }

    def _expire(self, at: float) -> None:
        """Drops cached answers when a source has changed, or when the question is about another time."""
        versions = self.version
        if versions != self._versions or abs(at - self._edges_made_at) > 1.0:
            self._edges.clear()
            self._edges_made_at = at
            for cgroup_id in self._processes.keys() & self._locals.keys():
                del self._locals[cgroup_id]
            if len(self._processes) > _CACHE_LIMIT:
                self._processes.clear()
            if versions[0] != self._versions[0]:
                self._locals.clear()
            self._versions = versions

    # -- the local end -------------------------------------------------------------------------------------------

    def _local(self, cgroup_id: int) -> Identity:
        if cgroup_id == 0:
            return unknown("no cgroup")
        path = self._tree.path(cgroup_id)
        if path is None:
            return unknown("cgroup gone")
        parsed = parse_cgroup_path(path)
        if parsed.pod_uid:
            return self._pod(parsed)
        common = Identity(Kind.CONTAINER, "", cluster=self._cluster, node=self._node, provenance=Provenance.CGROUP)
        if parsed.container_id:
            short = parsed.container_id[:12]
            return replace(
                common, name=short, workload=short, workload_kind="Container", service_name=short,
                container=parsed.container_id,
            )  # fmt: skip
        if parsed.unit and not parsed.unit.startswith(("session-", "user@")):
            return replace(
                common, kind=Kind.UNIT, name=parsed.unit, workload=parsed.unit, workload_kind="Unit",
                service_name=parsed.unit,
            )  # fmt: skip
        name = self._process_name(self._tree.processes(path)) or parsed.unit
        directory = path.strip("/").rpartition("/")[2] or "host"
        return replace(
            common, kind=Kind.PROCESS, name=name or directory, workload=name, workload_kind="Process",
            service_name=name,
        )  # fmt: skip

    def _pod(self, parsed: CgroupPath) -> Identity:
        known = self.index.pod(parsed.pod_uid, parsed.container_id) if self.index else None
        if known:
            return known.known_by(Provenance.CGROUP)
        name = f"pod-{parsed.pod_uid[:8]}"
        return Identity(
            Kind.POD, name, workload=name, workload_kind="Pod", service_name=name, uid=parsed.pod_uid,
            container=parsed.container_id, cluster=self._cluster, node=self._node,
            provenance=Provenance.CGROUP, reason=PENDING if self.index else "",
        )  # fmt: skip

    # -- the remote end ------------------------------------------------------------------------------------------

    def _edge(self, cgroup_id: int, peer: int, remote: Address, port: int, role: int, at: float) -> EdgeNames:
        local = self.local(cgroup_id)
        loopback = is_loopback(remote)
        if role != ROLE_CLIENT and cgroup_id:
            self._listeners[(loopback, port)] = cgroup_id
        service = None
        if role == ROLE_CLIENT and self.index:
            service = self.index.service(remote, port, at)
        identity = self.local(peer) if peer else None
        if identity is not None and identity.kind is not Kind.UNKNOWN:
            identity = identity.known_by(Provenance.PEER_CGROUP)
        else:
            identity = self._remote(cgroup_id, remote, port, role, at, service)
        if service is None and self.index and (external := self._external_service(cgroup_id, identity, remote, at)):
            service, identity = external
        elif service is None and self.index:
            # no service address was dialled (or we are the server): the service that lists the answering pod
            service = self.index.service_of_pod(identity if role == ROLE_CLIENT else local)
        return EdgeNames(local, identity, service)

    def _remote(
        self, cgroup_id: int, remote: Address, port: int, role: int, at: float, service: ServiceName | None
    ) -> Identity:
        text = address_text(remote)
        if is_loopback(remote):
            listener = self._listeners.get((True, port)) if role == ROLE_CLIENT else None
            if listener:
                return self.local(listener).known_by(Provenance.LISTENER)
            return Identity(
                Kind.LOOPBACK, "localhost", workload="localhost", service_name="localhost",
                node=self._node, provenance=Provenance.NONE,
            )  # fmt: skip
        if self.index:
            owner = self.index.owner(remote, port, at)
            if owner:
                return owner
            listing = None if service else self.index.service_listing(remote)
            if service and (backend := self.index.backend(service, at)):
                return backend
            if dialled := service or listing:
                return Identity(
                    Kind.SERVICE, dialled.name, namespace=dialled.namespace, workload="unknown",
                    service_name=dialled.name, cluster=self._cluster,
                    provenance=Provenance.SERVICE_IP if service else Provenance.ENDPOINT_SLICE,
                    reason="service without a known backend" if service else "pod outside the scope",
                )  # fmt: skip
        if learned := self.names.find(cgroup_id, remote, at):
            return self._external(learned.name, learned.provenance)
        if name := self._hosts.get(remote):
            return self._external(name, Provenance.HOSTS_FILE)
        if name := self._cidrs.find(remote):
            return self._external(name, Provenance.CIDR)
        return Identity(
            Kind.WORLD, text, workload="world", service_name="world", provenance=Provenance.NONE, reason="no name known"
        )

    def _external_service(
        self, cgroup_id: int, identity: Identity, remote: Address, at: float
    ) -> tuple[ServiceName, Identity] | None:
        """An ExternalName service, by the name the workload looked up: its target is configured, so it may be a workload."""
        learned = self.names.find(cgroup_id, remote, at) if identity.kind is Kind.EXTERNAL else None
        found = self.index.external_service(learned.name) if learned and self.index else None
        if found is None:
            return None
        service, target = found
        return service, replace(identity, name=target, workload=target, service_name=target)

    def _external(self, name: str, provenance: Provenance) -> Identity:
        # What the network says never sets the number of series: only configured names become a workload.
        configured = provenance in (Provenance.HOSTS_FILE, Provenance.CIDR) or any(
            name == suffix or name.endswith("." + suffix) for suffix in self._suffixes
        )
        workload = name if configured else "world"
        return Identity(Kind.EXTERNAL, name, workload=workload, service_name=workload, provenance=provenance)


def _directory_name(identity: Identity) -> Identity:
    """A cgroup without a process we may see: its directory's name."""
    return replace(identity, workload=identity.name, service_name=identity.name)


def named(identity: Identity, address: Address) -> Identity:
    """A world identity with the address of one flow as its name: for flows, never for metrics."""
    return replace(identity, name=address_text(address)) if identity.kind is Kind.WORLD else identity
