"""What a name is: a frozen value that says who, and how that was known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from zlib import crc32


class Kind(StrEnum):
    """What sort of thing an identity is."""

    POD = "pod"
    SERVICE = "service"
    NODE = "node"
    UNIT = "unit"
    CONTAINER = "container"
    PROCESS = "process"
    EXTERNAL = "external"
    """Outside, with a name: from DNS, SNI, Host, /etc/hosts or a configured CIDR group."""
    WORLD = "world"
    """Outside, without a name."""
    LOOPBACK = "loopback"
    UNKNOWN = "unknown"


class Provenance(StrEnum):
    """How a name was known; the values of label `source` of sidelight_identity_resolutions_total."""

    CGROUP = "cgroup"
    PEER_CGROUP = "peer-cgroup"
    """The other end is observed by this agent too, which knows its socket's cgroup: true through any NAT."""
    POD_IP = "pod-ip"
    SERVICE_IP = "service-ip"
    ENDPOINT_SLICE = "endpoint-slice"
    NODE_IP = "node-ip"
    CONNTRACK = "conntrack"
    LISTENER = "listener"
    """A socket of this node serves that address and port."""
    DNS = "dns"
    SNI = "sni"
    HOST = "host"
    HOSTS_FILE = "hosts-file"
    CIDR = "cidr"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Identity:
    """One end of a flow. Empty strings mean "does not apply"; `reason` says why a name is unknown."""

    kind: Kind
    name: str
    """Pod, unit, container or executable name, DNS name, or the address."""
    namespace: str = ""
    workload: str = ""
    workload_kind: str = ""
    app: str = ""
    version: str = ""
    service_name: str = ""
    """OpenTelemetry's service.name."""
    node: str = ""
    container: str = ""
    cluster: str = ""
    zone: str = ""
    uid: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    """All Kubernetes labels of the pod."""
    metric_labels: tuple[tuple[str, str], ...] = ()
    """The allow-listed ones, for metrics."""
    provenance: Provenance = Provenance.NONE
    reason: str = ""

    @property
    def display(self) -> str:
        """As people write it: namespace/workload, else the name."""
        if self.namespace:
            nameless = self.workload in ("", "unknown")
            name = self.name if nameless else self.workload
            return f"{self.namespace}/{name}"
        return self.name if self.kind in (Kind.EXTERNAL, Kind.WORLD) else self.workload or self.name

    def known_by(self, provenance: Provenance) -> Identity:
        return self if provenance == self.provenance else replace(self, provenance=provenance)

    def numeric(self) -> int:
        """Stable identity number, Hubble's way: reserved ones below 256, one a workload above.

        The same workload gets the same number on every node: a CRC of its name, in the 23 bits that leave Cilium's
        own ranges alone.
        """
        if self.kind is Kind.WORLD or self.kind is Kind.EXTERNAL:
            return 2
        if self.kind is Kind.NODE:
            return 1 if self.reason != "remote" else 6
        if self.kind is Kind.LOOPBACK:
            return 1
        if self.kind is Kind.UNKNOWN:
            return 0
        text = f"{self.cluster}/{self.namespace}/{self.workload_kind}/{self.workload or self.name}"
        return 256 + crc32(text.encode()) % ((1 << 23) - 256)


@dataclass(frozen=True, slots=True)
class ServiceName:
    """The service a client dialled."""

    name: str
    namespace: str = ""

    @property
    def host(self) -> str:
        """As Istio's `destination_service` has it."""
        return f"{self.name}.{self.namespace}.svc.cluster.local" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class EdgeNames:
    """Both ends of an edge and the service dialled, if any."""

    local: Identity
    remote: Identity
    service: ServiceName | None = None


OVERFLOW = Identity(Kind.UNKNOWN, "other", workload="other", service_name="other", reason="map full")
"""What a full kernel map or the cardinality budget folded together: exact, without a name."""


def unknown(reason: str, name: str = "unknown") -> Identity:
    return Identity(Kind.UNKNOWN, name, workload="unknown", service_name="unknown", reason=reason)
