"""Services by address and node port, what endpoint slices list, names of ExternalName services."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sidelight.identity import objects
from sidelight.identity.claims import FOREVER, Claim
from sidelight.identity.model import Identity, Kind, Provenance, ServiceName
from sidelight.identity.names import Address, address_of


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    name: ServiceName
    uid: str


class Services:
    """Not thread-safe: the index has the lock."""

    def __init__(self) -> None:
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

    # -- questions -----------------------------------------------------------------------------------------------

    def at(self, address: Address) -> list[ServiceName]:
        """Those whose address it is: a cluster's, external or load balancer's."""
        return [entry.name for entry in self._services.get(address, {}).values()]

    def at_node_port(self, port: int) -> ServiceName | None:
        found = self._node_ports.get(port)
        return found.name if found else None

    def listing(self, address: Address) -> list[ServiceName]:
        """Those whose slices list the address, by name."""
        names = self._services_of_address.get(address, {}).values()
        return sorted(names, key=lambda name: (name.namespace, name.name))

    def unsettled(self, address: Address) -> bool:
        """Is it a Service's, with backends whose pods have not arrived? A complete answer would have been kept."""
        names = self.at(address)
        return any(name in self._slices_of_service and name not in self._backend_of_service for name in names)

    def backend(self, service: ServiceName, claim_at: Callable[[Address], Claim | None]) -> Identity | None:
        """The workload behind a service when all its endpoints are of one, without a pod's name; None when they are of several."""
        if service in self._backend_of_service:
            return self._backend_of_service[service]
        claims = []
        for uid in self._slices_of_service.get(service, ()):
            for address, _ in self._slices[uid]:
                claim = claim_at(address)
                if claim is None:
                    return None  # its pod's object has not arrived: no answer to keep
                claims.append(claim)
        found = _common(service, [claim.owner for claim in claims])
        if all(claim.until == FOREVER for claim in claims):  # else true of that time alone
            self._backend_of_service[service] = found
        return found

    def external(self, host: str) -> tuple[ServiceName, str] | None:
        """(service, target) of an ExternalName service by the name that was looked up: `svc.namespace.svc` and any domain."""
        return self._external_names.get(".".join(host.split(".")[:3]))

    def counts(self) -> dict[str, int]:
        return {"services": len(self._service_addresses), "slices": len(self._slices)}

    # -- news ----------------------------------------------------------------------------------------------------

    def forget_backends(self, addresses: Iterable[Address]) -> None:
        """There is news of these addresses: what the services that list them have behind them may be another workload."""
        for address in addresses:
            for service in self._services_of_address.get(address, {}).values():
                self._backend_of_service.pop(service, None)

    def put(self, service: objects.Service) -> None:
        uid = service.metadata.uid
        self.remove(uid)
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

    def remove(self, uid: str) -> None:
        self._external_names.pop(self._external_name_of.pop(uid, ""), None)
        for address in self._service_addresses.pop(uid, ()):
            entries = self._services.get(address, {})
            entries.pop(uid, None)
            if not entries:
                self._services.pop(address, None)
        for port in self._service_ports.pop(uid, ()):
            if port in self._node_ports and self._node_ports[port].uid == uid:
                del self._node_ports[port]

    def put_slice(self, item: objects.EndpointSlice, zones: dict[str, str]) -> None:
        """`zones`: of nodes, to which is added what endpoints say of theirs."""
        uid = item.metadata.uid
        self.remove_slice(uid)
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
                    zones.setdefault(endpoint.node_name, endpoint.zone)
        self._slices[uid] = tuple(listed)
        self._backend_of_service.pop(service, None)

    def remove_slice(self, uid: str) -> None:
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
