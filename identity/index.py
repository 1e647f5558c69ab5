"""Who owned an address, and when; which pod a container or UID is. Time-versioned: an answer is for the time of the flow.

An address has a history of claims (from, until, owner). A deleted pod's claims end at the deletion and are kept for `tombstone_s`,
by UID, so that a late flow of its address is not given to the next owner. Node addresses never name a pod.

Claims are claims.py's, Services and their backends services.py's, names of pods workloads.py's; here they are put together. While
an owner is ending, the next one may be using its address untold: unsettled() says so, and those flows wait (agent/core.py).

Thread-safe by one lock: the watches write, the pipeline reads. A hundred thousand pods must fit beside the rest of the agent: equal
strings and label sets are kept once, container ids as bytes, and a pod's entry, claim and identity share what they can.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sidelight.identity import objects
from sidelight.identity.claims import FOREVER, Claims
from sidelight.identity.model import Identity, Kind, Provenance, ServiceName
from sidelight.identity.names import Address, address_of, address_text
from sidelight.identity.services import Services
from sidelight.identity.workloads import MetricOptions, Workloads

WATCH_LAG_S = 0.02
"""Our hearing of a pod's binding may be later than the binding by this and by what a kubelet takes to start a sandbox."""
FRESH_S = 2.0
"""An object this young was created when we heard of it: creationTimestamp has whole seconds. An older one came by a list."""


@dataclass(slots=True)
class PodEntry:
    """`containers`: id and name by turns, ids as _packed() has them. `born`: before it the pod had no address."""

    identity: Identity
    addresses: tuple[Address, ...]
    containers: tuple[bytes | str, ...]
    born: float


def _packed(container_id: str) -> bytes:
    """A container's id in half the memory: it is hexadecimal as a rule."""
    try:
        return bytes.fromhex(container_id)
    except ValueError:
        return container_id.encode()


class Index:
    """The cluster as the watches tell it."""

    def __init__(
        self, cluster: str = "", node: str = "", options: MetricOptions | None = None, tombstone_s: float = 300.0
    ) -> None:
        self.cluster, self.node = cluster, node
        self.options = options or MetricOptions()
        self.version = 0
        self.synced = False
        self.staleness_s = 0.0
        self._lock = threading.RLock()
        self._zones: dict[str, str] = {}
        self._claims = Claims(tombstone_s)
        self._services = Services()
        self._workloads = Workloads(cluster, self.options, self._zones)
        self._pods: dict[str, PodEntry] = {}
        self._static: dict[str, str] = {}
        self._nodes: dict[str, tuple[Address, ...]] = {}
        self._node_names: dict[str, tuple[Address, ...]] = {}
        self._name_of_node: dict[str, str] = {}

    # -- questions -----------------------------------------------------------------------------------------------

    def pod(self, uid: str, container_id: str = "") -> Identity | None:
        """The pod of a UID (a static pod's as the kubelet has it too), with the container's name."""
        with self._lock:
            found = self._pods.get(self._static.get(uid, uid))
            if found is None:
                return None
            packed = _packed(container_id)
            for place in range(0, len(found.containers), 2):
                if found.containers[place] == packed:
                    return replace(found.identity, container=str(found.containers[place + 1]))
            return found.identity

    def pods_of(self, namespace: str) -> list[tuple[Identity, float]]:
        """The pods of a namespace that are known, with the time before which each had no address."""
        with self._lock:
            entries = self._pods.values()
            return [(entry.identity, entry.born) for entry in entries if entry.identity.namespace == namespace]

    def owner(self, address: Address, port: int, at: float) -> Identity | None:
        """Who had the address at the time: a pod or a node. None: nobody we know."""
        with self._lock:
            claim = self._claims.at(address, at)
            return claim.owner if claim else None

    def span(self, address: Address, at: float) -> tuple[float, float]:
        """From when until when the answer that owner() gives for `at` holds, as far as is known."""
        with self._lock:
            return self._claims.span(address, at)

    def unsettled(self, address: Address, now: float) -> bool:
        """May the owner of an address soon turn out to be another than owner() says? Then it pays to wait a moment."""
        with self._lock:
            if not self._claims.of(address) and self._services.at(address):
                return self._services.unsettled(address)
            return self._claims.unsettled(address, now)

    def service(self, address: Address, port: int, at: float) -> ServiceName | None:
        """The service behind a cluster, external or load-balancer address, or behind a node port."""
        with self._lock:
            found = self._services.at(address)
            if found:
                return found[0]
            claim = self._claims.at(address, at)
            if claim is not None and claim.owner.kind is Kind.NODE:
                return self._services.at_node_port(port)
            return None

    def service_of_pod(self, identity: Identity) -> ServiceName | None:
        """The service an endpoint slice lists the pod's address under; the first by name when there are several."""
        with self._lock:
            known = self._pods.get(identity.uid)
            for candidate in known.addresses if known else ():
                if found := self._services.listing(candidate):
                    return found[0]
            return None

    def service_listing(self, address: Address) -> ServiceName | None:
        """The service an endpoint slice lists an address under: all that is known of a remote pod with scope node+services."""
        with self._lock:
            found = self._services.listing(address)
            return found[0] if found else None

    def backend(self, service: ServiceName, at: float) -> Identity | None:
        """The workload behind a service when all its endpoints are of one, without a pod's name; None when they are of several.

        What names the far end of a service whose backend runs on another node, without conntrack.
        """
        with self._lock:
            return self._services.backend(service, lambda address: self._claims.at(address, at))

    def external_service(self, host: str) -> tuple[ServiceName, str] | None:
        """(service, target) of an ExternalName service by the name that was looked up: `svc.namespace.svc` and any domain."""
        with self._lock:
            return self._services.external(host)

    def explain(self, address: Address, port: int, at: float) -> list[dict[str, Any]]:
        """Everything known of an address: each claim with its time, services, slices."""
        with self._lock:
            found: list[dict[str, Any]] = [
                {
                    "source": str(claim.owner.provenance),
                    "name": claim.owner.display,
                    "pod": claim.owner.name,
                    "uid": claim.owner.uid,
                    "since": claim.since,
                    "until": None if claim.until == FOREVER else claim.until,
                    "valid": claim.since <= at < claim.until,
                }
                for claim in self._claims.of(address)
            ]
            found += [{"source": "service-ip", "name": name.host, "valid": True} for name in self._services.at(address)]
            found += [
                {"source": "endpoint-slice", "name": name.host, "valid": True}
                for name in self._services.listing(address)
            ]
            return found

    def node_addresses(self) -> dict[str, str]:
        """Each node's first address, by name."""
        with self._lock:
            return {name: address_text(addresses[0]) for name, addresses in self._node_names.items() if addresses}

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {
                "pods": len(self._pods),
                "addresses": len(self._claims),
                **self._services.counts(),
                "nodes": len(self._nodes),
                "tombstones": len(self._claims.tombstones),
            }

    # -- news ----------------------------------------------------------------------------------------------------

    def put(self, kind: str, item: Any, at: float) -> None:
        """An object that was added or changed. `kind`: the resource's plural name."""
        with self._lock:
            self.version += 1
            _PUT[kind](self, item, at)
            self._bury(at)

    def remove(self, kind: str, uid: str, at: float) -> None:
        """An object that is gone."""
        with self._lock:
            self.version += 1
            _REMOVE[kind](self, uid, at)
            self._bury(at)

    def _put_pod(self, pod: objects.Pod, at: float) -> None:
        meta = pod.metadata
        uid = meta.uid
        ending = meta.deletion_timestamp is not None
        finished = pod.status.phase in ("Succeeded", "Failed") or (ending and _all_ended(pod.status))
        addresses = () if pod.spec.host_network or finished else self._addresses_of(pod)
        identity = self._workloads.identity(pod)
        before = self._pods.get(uid)
        born = self._born(pod, before, at)
        if not before or before.identity != identity or before.addresses != addresses:
            self._services.forget_backends(addresses)
        if before:
            if before.identity == identity:
                identity = before.identity
            if before.addresses == addresses:
                addresses = before.addresses
            self._claims.end(uid, set(before.addresses) - set(addresses), at)
            self._claims.rename(before.addresses, identity, ending)
        for address in addresses:
            if not before or address not in before.addresses:
                self._claims.add(address, born, at, identity, ending)
        self._pods[uid] = PodEntry(identity, addresses, _containers(pod.status), born)
        if meta.annotations and (static := meta.annotations.config_hash or meta.annotations.mirror):
            self._static[static] = uid

    @staticmethod
    def _born(pod: objects.Pod, before: PodEntry | None, at: float) -> float:
        """The time before which a pod cannot have used an address: when it was created, or bound to its node."""
        if before and before.identity.node:
            return before.born
        created = min(
            at, objects.timestamp(pod.metadata.creation_timestamp) or at
        )  # never in our future, whatever its clock says
        return max(created, at - WATCH_LAG_S) if before or at - created < FRESH_S else min(at, created)

    @staticmethod
    def _addresses_of(pod: objects.Pod) -> tuple[Address, ...]:
        texts = [entry.ip for entry in pod.status.pod_ips or []] or [pod.status.pod_ip or ""]
        found = []
        for text in texts:
            try:
                found.append(address_of(text))
            except ValueError:
                continue
        return tuple(dict.fromkeys(found))

    def _remove_pod(self, uid: str, at: float) -> None:
        known = self._pods.get(uid)
        if known is None:
            return
        self._claims.end(uid, set(known.addresses), at)
        self._claims.tombstones.append((at + self._claims.tombstone_s, uid))

    def _bury(self, at: float) -> None:
        """Forgets what ended more than the tombstone time ago."""
        tombstones = self._claims.tombstones
        while tombstones and tombstones[0][0] <= at:
            _, what = tombstones.popleft()
            if isinstance(what, str):
                self._forget_pod(what)
            else:
                self._claims.drop_ended(what, at)

    def _forget_pod(self, uid: str) -> None:
        if self._pods.pop(uid, None) is not None:
            for static in [key for key, value in self._static.items() if value == uid]:
                del self._static[static]

    def _put_owner(self, item: objects.OnlyMeta, at: float) -> None:
        for pod in self._workloads.put_owner(item):
            if pod.metadata.uid in self._pods:
                self._put_pod(pod, at)

    def _remove_owner(self, uid: str, at: float) -> None:
        self._workloads.remove_owner(uid)

    def _put_service(self, service: objects.Service, at: float) -> None:
        self._services.put(service)

    def _remove_service(self, uid: str, at: float) -> None:
        self._services.remove(uid)

    def _put_slice(self, item: objects.EndpointSlice, at: float) -> None:
        self._services.put_slice(item, self._zones)

    def _remove_slice(self, uid: str, at: float) -> None:
        self._services.remove_slice(uid)

    def _put_node(self, node: objects.Node, at: float) -> None:
        uid, name = node.metadata.uid, node.metadata.name
        addresses = []
        for entry in node.status.addresses or []:
            if entry.type not in ("InternalIP", "ExternalIP"):
                continue
            try:
                addresses.append(address_of(entry.address))
            except ValueError:
                continue
        zone = (node.metadata.labels or {}).get("topology.kubernetes.io/zone", "")
        if zone:
            self._zones[name] = zone
        identity = Identity(
            Kind.NODE,
            name,
            workload=name,
            workload_kind="Node",
            service_name=name,
            node=name,
            cluster=self.cluster,
            zone=zone,
            uid=uid,
            provenance=Provenance.NODE_IP,
            reason="" if name == self.node else "remote",
        )
        before = self._nodes.get(uid, ())
        self._claims.end(uid, set(before) - set(addresses), at)
        for address in addresses:
            if address not in before:
                self._claims.add(address, 0.0, at, identity)
        self._nodes[uid] = self._node_names[name] = tuple(addresses)
        self._name_of_node[uid] = name

    def _remove_node(self, uid: str, at: float) -> None:
        self._claims.end(uid, set(self._nodes.pop(uid, ())), at)
        self._node_names.pop(self._name_of_node.pop(uid, ""), None)

    def _ignore(self, item: Any, at: float) -> None:
        return


def _all_ended(status: objects.PodStatus) -> bool:
    statuses = status.container_statuses or []
    return bool(statuses) and all(entry.state and entry.state.terminated for entry in statuses)


def _containers(status: objects.PodStatus) -> tuple[bytes | str, ...]:
    found: list[bytes | str] = []
    for statuses in (status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses):
        for entry in statuses or []:
            if entry.container_id:
                found += [_packed(entry.container_id.rpartition("://")[2]), sys.intern(entry.name)]
    return tuple(found)


_PUT: dict[str, Callable[[Index, Any, float], None]] = {
    "pods": Index._put_pod,
    "services": Index._put_service,
    "endpointslices": Index._put_slice,
    "nodes": Index._put_node,
    "replicasets": Index._put_owner,
    "jobs": Index._put_owner,
    "namespaces": Index._ignore,
}
_REMOVE: dict[str, Callable[[Index, str, float], None]] = {
    "pods": Index._remove_pod,
    "services": Index._remove_service,
    "endpointslices": Index._remove_slice,
    "nodes": Index._remove_node,
    "replicasets": Index._remove_owner,
    "jobs": Index._remove_owner,
    "namespaces": Index._ignore,
}
