"""Who owned an address, and when; which pod a container or UID is. Time-versioned: an answer is for the time of the flow.

An address has a history of claims (from, until, owner). A deleted pod's claims end at the deletion and are kept for `tombstone_s`,
by UID, so that a late flow of its address is not given to the next owner. Node addresses never name a pod.

Nobody tells the moment an address changes hands. What is told: the new pod cannot have had it before it was bound to its node, the
old one not after its containers had ended. Between the two the claim is contested: such flows are unknown, not guessed. And while
an owner is ending, the next one may be using its address untold: unsettled() says so, and those flows wait (agent/core.py).

Thread-safe by one lock: the watches write, the pipeline reads. A hundred thousand pods must fit beside the rest of the agent: equal
strings and label sets are kept once, container ids as bytes, and a pod's entry, claim and identity share what they can.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sidelight.identity import objects
from sidelight.identity.model import Identity, Kind, Provenance, ServiceName, unknown
from sidelight.identity.names import Address, address_of, address_text, is_ipv4

FOREVER = float("inf")
_LABEL_SETS = 50_000
_WAITING = 10_000
_NETWORKS = 100_000
WATCH_LAG_S = 0.02
"""Our hearing of a pod's binding may be later than the binding by this and by what a kubelet takes to start a sandbox."""
FRESH_S = 2.0
"""An object this young was created when we heard of it: creationTimestamp has whole seconds. An older one came by a list."""
SETTLE_S = 2.0
"""Before its object said so a new pod may already have used its address: by at most this, unless another owned it then."""


@dataclass(slots=True)
class Claim:
    """`owner` had the address from `since` until `until`, in seconds since the epoch."""

    since: float
    until: float
    owner: Identity
    ending: bool = False
    """The owner is being deleted: its address may go to another before we are told."""


@dataclass(slots=True)
class PodEntry:
    """`containers`: id and name by turns, ids as _packed() has them. `born`: before it the pod had no address."""

    identity: Identity
    addresses: tuple[Address, ...]
    containers: tuple[bytes | str, ...]
    born: float


CONTESTED = unknown("address changed hands")


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    name: ServiceName
    uid: str


@dataclass(frozen=True, slots=True)
class MetricOptions:
    """Pod labels that become metric labels, and whether names of `service.name` come from labels (OpenTelemetry's opt-in)."""

    labels: tuple[str, ...] = ()
    service_name_from_labels: bool = True


def _packed(container_id: str) -> bytes:
    """A container's id in half the memory: it is hexadecimal as a rule."""
    try:
        return bytes.fromhex(container_id)
    except ValueError:
        return container_id.encode()


def _timestamp(text: str | None) -> float | None:
    """Seconds of an RFC 3339 time; None for anything else."""
    if not text:
        return None
    from datetime import datetime

    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


class Index:
    """The cluster as the watches tell it."""

    def __init__(
        self, cluster: str = "", node: str = "", options: MetricOptions | None = None, tombstone_s: float = 300.0
    ) -> None:
        self.cluster, self.node = cluster, node
        self.options = options or MetricOptions()
        self.tombstone_s = tombstone_s
        self.version = 0
        self.synced = False
        self.staleness_s = 0.0
        self._lock = threading.RLock()
        self._claims: dict[Address, tuple[Claim, ...]] = {}
        self._pods: dict[str, PodEntry] = {}
        self._static: dict[str, str] = {}
        self._label_sets: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
        self._owners: dict[str, objects.OwnerReference | None] = {}
        self._waiting_for_owner: dict[str, dict[str, objects.Pod]] = {}
        self._services: dict[Address, dict[str, ServiceEntry]] = {}
        self._service_addresses: dict[str, tuple[Address, ...]] = {}
        self._node_ports: dict[int, ServiceEntry] = {}
        self._service_ports: dict[str, tuple[int, ...]] = {}
        self._slices: dict[str, tuple[tuple[Address, str], ...]] = {}
        self._slice_service: dict[str, ServiceName] = {}
        self._slices_of_service: dict[ServiceName, set[str]] = {}
        self._backend_of_service: dict[ServiceName, Identity | None] = {}
        self._external_names: dict[str, tuple[ServiceName, str]] = {}
        """Host name of an ExternalName service within the cluster, without the cluster's domain -> (service, its target)."""
        self._external_name_of: dict[str, str] = {}
        self._services_of_address: dict[Address, dict[str, ServiceName]] = {}
        self._networks: set[bytes] = set()
        """Prefixes (IPv4 /24, IPv6 /64) in which pods have had addresses."""
        self._zones: dict[str, str] = {}
        self._nodes: dict[str, tuple[Address, ...]] = {}
        self._node_names: dict[str, tuple[Address, ...]] = {}
        self._name_of_node: dict[str, str] = {}
        self._tombstones: deque[tuple[float, Address | str]] = deque()
        """(when, what to forget then): an address whose claims have ended, or a pod's UID."""

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
            return self._owner(address, at)

    def _owner(self, address: Address, at: float) -> Identity | None:
        claim = self._claim_at(address, at)
        return claim.owner if claim else None

    def _claim_at(self, address: Address, at: float) -> Claim | None:
        claims = self._claims.get(address)
        if not claims:
            return None
        for claim in reversed(claims):
            if claim.since <= at < claim.until:
                return claim
        # the object comes after the first packet: the next owner, unless somebody else had the address then
        for claim in claims:
            if claim.since > at and claim.since - at <= SETTLE_S:
                return claim
        return None

    def span(self, address: Address, at: float) -> tuple[float, float]:
        """From when until when the answer that owner() gives for `at` holds, as far as is known."""
        with self._lock:
            claims = self._claims.get(address)
            if not claims:
                return -FOREVER, FOREVER
            return next(
                ((claim.since, claim.until) for claim in reversed(claims) if claim.since <= at < claim.until), (at, at)
            )

    def unsettled(self, address: Address, now: float) -> bool:
        """May the owner of an address soon turn out to be another than owner() says? Then it pays to wait a moment."""
        with self._lock:
            claims = self._claims.get(address)
            if not claims and (services := self._services.get(address)):
                # backends whose pods have not arrived: a complete answer would have been kept
                names = [entry.name for entry in services.values()]
                return any(name in self._slices_of_service and name not in self._backend_of_service for name in names)
            if not claims:
                return _network(address) in self._networks  # a pod of which we have not been told
            last = claims[-1]
            return last.ending if last.until == FOREVER else now - last.until < SETTLE_S

    def service(self, address: Address, port: int, at: float) -> ServiceName | None:
        """The service behind a cluster, external or load-balancer address, or behind a node port."""
        with self._lock:
            found = self._services.get(address)
            if found:
                return next(iter(found.values())).name
            claim = self._owner(address, at)
            if claim is not None and claim.kind is Kind.NODE and port in self._node_ports:
                return self._node_ports[port].name
            return None

    def service_of_pod(self, identity: Identity) -> ServiceName | None:
        """The service an endpoint slice lists the pod's address under; the first by name when there are several."""
        with self._lock:
            known = self._pods.get(identity.uid)
            for candidate in known.addresses if known else ():
                if found := self._service_listing(candidate):
                    return found
            return None

    def service_listing(self, address: Address) -> ServiceName | None:
        """The service an endpoint slice lists an address under: all that is known of a remote pod with scope node+services."""
        with self._lock:
            return self._service_listing(address)

    def _service_listing(self, address: Address) -> ServiceName | None:
        names = self._services_of_address.get(address)
        return min(names.values(), key=lambda name: (name.namespace, name.name)) if names else None

    def backend(self, service: ServiceName, at: float) -> Identity | None:
        """The workload behind a service when all its endpoints are of one, without a pod's name; None when they are of several.

        What names the far end of a service whose backend runs on another node, without conntrack.
        """
        with self._lock:
            if service in self._backend_of_service:
                return self._backend_of_service[service]
            claims = []
            for uid in self._slices_of_service.get(service, ()):
                for address, _ in self._slices[uid]:
                    claim = self._claim_at(address, at)
                    if claim is None:
                        return None  # its pod's object has not arrived: no answer to keep
                    claims.append(claim)
            found = _common(service, [claim.owner for claim in claims])
            if all(claim.until == FOREVER for claim in claims):  # else true of that time alone
                self._backend_of_service[service] = found
            return found

    def external_service(self, host: str) -> tuple[ServiceName, str] | None:
        """(service, target) of an ExternalName service by the name that was looked up: `svc.namespace.svc` and any domain."""
        with self._lock:
            return self._external_names.get(".".join(host.split(".")[:3]))

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
                for claim in self._claims.get(address, ())
            ]
            found += [
                {"source": "service-ip", "name": entry.name.host, "valid": True}
                for entry in self._services.get(address, {}).values()
            ]
            found += [
                {"source": "endpoint-slice", "name": name.host, "valid": True}
                for name in self._services_of_address.get(address, {}).values()
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
                "services": len(self._service_addresses),
                "slices": len(self._slices),
                "nodes": len(self._nodes),
                "tombstones": len(self._tombstones),
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
        identity = self._identity(pod)
        before = self._pods.get(uid)
        born = self._born(pod, before, at)
        if not before or before.identity != identity or before.addresses != addresses:
            self._forget_backends(addresses)
        if before:
            if before.identity == identity:
                identity = before.identity
            if before.addresses == addresses:
                addresses = before.addresses
            self._end_claims(uid, set(before.addresses) - set(addresses), at)
            for address in before.addresses:
                for claim in self._claims.get(address, ()):
                    if claim.owner.uid == uid:
                        claim.owner, claim.ending = identity, ending
        for address in addresses:
            if not before or address not in before.addresses:
                self._claim(address, born, at, identity, ending)
        self._pods[uid] = PodEntry(identity, addresses, _containers(pod.status), born)
        if meta.annotations and (static := meta.annotations.config_hash or meta.annotations.mirror):
            self._static[static] = uid

    @staticmethod
    def _born(pod: objects.Pod, before: PodEntry | None, at: float) -> float:
        """The time before which a pod cannot have used an address: when it was created, or bound to its node."""
        if before and before.identity.node:
            return before.born
        created = min(
            at, _timestamp(pod.metadata.creation_timestamp) or at
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

    def _claim(self, address: Address, born: float, at: float, owner: Identity, ending: bool = False) -> None:
        """`owner` has the address now, and has had it since `born` at the earliest."""
        self._networks.add(_network(address))
        if len(self._networks) > _NETWORKS:
            self._networks.clear()
        claims = self._claims.get(address, ())
        since = born
        for claim in claims:
            if claim.until > born and claim.owner.uid != owner.uid:
                # between `born` and the end of the other, as far as that is known, it may have been either's
                since = max(since, min(claim.until, at))
                claim.until = max(born, claim.since)
                self._tombstones.append((at + self.tombstone_s, address))
        added = [Claim(since, FOREVER, owner, ending)]
        if since > born:
            added.append(Claim(born, since, CONTESTED))
        self._claims[address] = tuple(sorted((*claims, *added), key=lambda claim: claim.since))

    def _end_claims(self, uid: str, addresses: set[Address], at: float) -> None:
        for address in addresses:
            for claim in self._claims.get(address, ()):
                if claim.owner.uid == uid and claim.until > at:
                    claim.until = at
                    self._tombstones.append((at + self.tombstone_s, address))

    def _remove_pod(self, uid: str, at: float) -> None:
        known = self._pods.get(uid)
        if known is None:
            return
        self._end_claims(uid, set(known.addresses), at)
        self._tombstones.append((at + self.tombstone_s, uid))

    def _bury(self, at: float) -> None:
        """Forgets what ended more than the tombstone time ago."""
        while self._tombstones and self._tombstones[0][0] <= at:
            _, what = self._tombstones.popleft()
            if isinstance(what, str):
                self._forget_pod(what)
            else:
                self._drop_ended(what, at)

    def _drop_ended(self, address: Address, at: float) -> None:
        claims = tuple(claim for claim in self._claims.get(address, ()) if claim.until + self.tombstone_s > at)
        if claims:
            self._claims[address] = claims
        else:
            self._claims.pop(address, None)

    def _forget_pod(self, uid: str) -> None:
        if self._pods.pop(uid, None) is not None:
            for static in [key for key, value in self._static.items() if value == uid]:
                del self._static[static]

    # -- names of pods -------------------------------------------------------------------------------------------

    def _identity(self, pod: objects.Pod) -> Identity:
        meta = pod.metadata
        labels = meta.labels or {}
        workload, kind = self._workload(pod)
        app = labels.get("app.kubernetes.io/name") or labels.get("app") or labels.get("k8s-app") or workload
        version = labels.get("app.kubernetes.io/version") or labels.get("version") or ""
        once = sys.intern
        return Identity(
            Kind.POD,
            meta.name,
            namespace=once(meta.namespace),
            workload=once(workload),
            workload_kind=once(kind),
            app=once(app),
            version=once(version),
            service_name=once(self._service_name(meta, labels, workload)),
            node=once(pod.spec.node_name),
            cluster=self.cluster,
            zone=self._zones.get(pod.spec.node_name, ""),
            uid=meta.uid,
            labels=self._label_set(labels),
            metric_labels=self._label_set({key: labels[key] for key in self.options.labels if key in labels}),
            provenance=Provenance.POD_IP,
        )

    def _label_set(self, labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
        """The labels, sorted; pods of a workload share one tuple."""
        items = tuple(sorted(labels.items()))
        if len(self._label_sets) >= _LABEL_SETS:
            self._label_sets.clear()  # those in use live on with their pods
        return self._label_sets.setdefault(items, items)

    def _service_name(self, meta: objects.Meta, labels: dict[str, str], workload: str) -> str:
        """OpenTelemetry's order: annotation, recommended labels, workload, pod."""
        if meta.annotations and meta.annotations.service_name:
            return meta.annotations.service_name
        if self.options.service_name_from_labels:
            for key in ("app.kubernetes.io/instance", "app.kubernetes.io/name"):
                if labels.get(key):
                    return labels[key]
        return workload or meta.name

    def _workload(self, pod: objects.Pod) -> tuple[str, str]:
        """(name, kind) of the topmost owner; a bare pod is its own, a static pod too, without the node in its name."""
        meta = pod.metadata
        owner = _controller(meta)
        if owner is None:
            return meta.name, "Pod"
        if owner.kind == "Node":
            return meta.name.removesuffix(f"-{owner.name}"), "Pod"
        for _ in range(4):
            if owner.uid not in self._owners:
                if owner.kind in ("ReplicaSet", "Job"):
                    if len(self._waiting_for_owner) < _WAITING:  # beyond, the guess holds until the pod's next change
                        self._waiting_for_owner.setdefault(owner.uid, {})[meta.uid] = pod
                    return _guess_owner(owner, meta.labels or {})
                break
            above = self._owners[owner.uid]
            if above is None:
                break
            owner = above
        return owner.name, owner.kind

    def _put_owner(self, item: objects.OnlyMeta, at: float) -> None:
        uid = item.metadata.uid
        self._owners[uid] = _controller(item.metadata)
        for pod_uid, pod in self._waiting_for_owner.pop(uid, {}).items():
            if pod_uid in self._pods:
                self._put_pod(pod, at)

    def _remove_owner(self, uid: str, at: float) -> None:
        self._waiting_for_owner.pop(uid, None)
        if len(self._owners) > 200_000:  # kept while their pods may still be asked for
            self._owners.pop(uid, None)

    # -- services, slices, nodes ---------------------------------------------------------------------------------

    def _put_service(self, service: objects.Service, at: float) -> None:
        uid = service.metadata.uid
        self._remove_service(uid, at)
        spec = service.spec
        texts = [*(spec.cluster_ips or [spec.cluster_ip or ""]), *(spec.external_ips or [])]
        balancer = service.status.load_balancer
        texts += [entry.ip or "" for entry in (balancer.ingress or [] if balancer else [])]
        entry = ServiceEntry(ServiceName(service.metadata.name, service.metadata.namespace), uid)
        addresses = []
        for text in texts:
            try:
                address = address_of(text)
            except ValueError:
                continue  # headless ("None"), empty, or nonsense
            self._services.setdefault(address, {})[uid] = entry
            addresses.append(address)
        self._service_addresses[uid] = tuple(addresses)
        if spec.type == "ExternalName" and spec.external_name:
            host = f"{entry.name.name}.{entry.name.namespace}.svc".lower()
            self._external_names[host] = (entry.name, spec.external_name.rstrip(".").lower())
            self._external_name_of[uid] = host
        ports = tuple(port.node_port for port in spec.ports or [] if port.node_port)
        self._service_ports[uid] = ports
        for port in ports:
            self._node_ports[port] = entry

    def _remove_service(self, uid: str, at: float) -> None:
        self._external_names.pop(self._external_name_of.pop(uid, ""), None)
        for address in self._service_addresses.pop(uid, ()):
            entries = self._services.get(address, {})
            entries.pop(uid, None)
            if not entries:
                self._services.pop(address, None)
        for port in self._service_ports.pop(uid, ()):
            if port in self._node_ports and self._node_ports[port].uid == uid:
                del self._node_ports[port]

    def _put_slice(self, item: objects.EndpointSlice, at: float) -> None:
        uid = item.metadata.uid
        self._remove_slice(uid, at)
        name = (item.metadata.labels or {}).get("kubernetes.io/service-name", "")
        if not name:
            return
        service = ServiceName(name, item.metadata.namespace)
        self._slice_service[uid] = service
        self._slices_of_service.setdefault(service, set()).add(uid)
        listed = []
        for endpoint in item.endpoints or []:
            for text in endpoint.addresses or []:
                try:
                    address = address_of(text)
                except ValueError:
                    continue
                self._services_of_address.setdefault(address, {})[uid] = service
                listed.append((address, endpoint.zone or ""))
                if endpoint.zone and endpoint.node_name:
                    self._zones.setdefault(endpoint.node_name, endpoint.zone)
        self._slices[uid] = tuple(listed)
        self._backend_of_service.pop(service, None)

    def _forget_backends(self, addresses: tuple[Address, ...]) -> None:
        """There is news of these addresses: what the services that list them have behind them may be another workload."""
        for address in addresses:
            for service in self._services_of_address.get(address, {}).values():
                self._backend_of_service.pop(service, None)

    def _remove_slice(self, uid: str, at: float) -> None:
        service = self._slice_service.pop(uid, None)
        if service is not None:
            self._backend_of_service.pop(service, None)
            slices = self._slices_of_service[service]
            slices.discard(uid)
            if not slices:
                del self._slices_of_service[service]
        for address, _ in self._slices.pop(uid, ()):
            names = self._services_of_address.get(address, {})
            names.pop(uid, None)
            if not names:
                self._services_of_address.pop(address, None)

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
        self._end_claims(uid, set(before) - set(addresses), at)
        for address in addresses:
            if address not in before:
                self._claim(address, 0.0, at, identity)
        self._nodes[uid] = self._node_names[name] = tuple(addresses)
        self._name_of_node[uid] = name

    def _remove_node(self, uid: str, at: float) -> None:
        self._end_claims(uid, set(self._nodes.pop(uid, ())), at)
        self._node_names.pop(self._name_of_node.pop(uid, ""), None)

    def _ignore(self, item: Any, at: float) -> None:
        return


def _network(address: Address) -> bytes:
    return address[:15] if is_ipv4(address) else address[:8]


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


def _common(service: ServiceName, owners: list[Identity]) -> Identity | None:
    """What all backends of a service are, or None: their workload, as no pod of it; a version or label that differs is left out."""
    first = owners[0] if owners else None
    if first is None or first.kind is not Kind.POD:
        return None
    if any(
        (o.namespace, o.workload, o.workload_kind) != (first.namespace, first.workload, first.workload_kind)
        for o in owners
    ):
        return None
    shared = set(first.labels).intersection(*(owner.labels for owner in owners))
    same = len({owner.version for owner in owners}) == 1
    return replace(
        first, kind=Kind.SERVICE, name=service.name, uid="", node="", zone="", container="",
        version=first.version if same else "", labels=tuple(sorted(shared)),
        metric_labels=tuple(pair for pair in first.metric_labels if pair in shared), provenance=Provenance.ENDPOINT_SLICE,
    )  # fmt: skip


def _controller(meta: objects.Meta) -> objects.OwnerReference | None:
    references = meta.owner_references or []
    return next((reference for reference in references if reference.controller), references[0] if references else None)


def _guess_owner(owner: objects.OwnerReference, labels: dict[str, str]) -> tuple[str, str]:
    """Until the ReplicaSet's own object arrives: its pods' hash label tells a Deployment's, or a Rollout's, name."""
    digest = labels.get("pod-template-hash") or labels.get("rollouts-pod-template-hash")
    if owner.kind == "ReplicaSet" and digest and owner.name.endswith(f"-{digest}"):
        kind = "Rollout" if "rollouts-pod-template-hash" in labels else "Deployment"
        return owner.name.removesuffix(f"-{digest}"), kind
    return owner.name, owner.kind


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
