"""Kubernetes objects, slim: only the fields that name something, decoded straight from the API's JSON by msgspec.

Unknown fields cost nothing; wrong types are an error of that object alone, counted by the watch. Source: the Kubernetes
API reference (core/v1 Pod, Service, Node, Namespace; discovery.k8s.io/v1 EndpointSlice; metadata of apps/v1 and batch/v1).
"""

from __future__ import annotations

from datetime import datetime

import msgspec

OWN_ANNOTATIONS = (
    "kubernetes.io/config.mirror",
    "kubernetes.io/config.hash",
    "resource.opentelemetry.io/service.name",
)


def timestamp(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for anything else."""
    try:
        return datetime.fromisoformat((text or "").replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


class _Slim(msgspec.Struct, frozen=True, rename="camel", gc=False):
    pass


class OwnerReference(_Slim, frozen=True):
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None


class Annotations(msgspec.Struct, frozen=True, gc=False):
    """The few annotations that matter: a pod's others may be a megabyte."""

    mirror: str = msgspec.field(name="kubernetes.io/config.mirror", default="")
    config_hash: str = msgspec.field(name="kubernetes.io/config.hash", default="")
    service_name: str = msgspec.field(name="resource.opentelemetry.io/service.name", default="")


class Meta(_Slim, frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: Annotations | None = None
    owner_references: list[OwnerReference] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class PodIP(_Slim, frozen=True):
    ip: str = ""


class Terminated(_Slim, frozen=True):
    reason: str = ""


class ContainerState(_Slim, frozen=True):
    terminated: Terminated | None = None


class ContainerStatus(_Slim, frozen=True):
    name: str = ""
    state: ContainerState | None = None
    container_id: str | None = msgspec.field(name="containerID", default=None)


class PodStatus(_Slim, frozen=True):
    phase: str = ""
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    pod_ips: list[PodIP] | None = msgspec.field(name="podIPs", default=None)
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None


class PodSpec(_Slim, frozen=True):
    node_name: str = ""
    host_network: bool | None = None


class Pod(_Slim, frozen=True):
    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class ServicePort(_Slim, frozen=True):
    port: int = 0
    node_port: int | None = None
    protocol: str | None = None


class ServiceSpec(_Slim, frozen=True):
    type: str = ""
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    external_name: str | None = None
    ports: list[ServicePort] | None = None


class Ingress(_Slim, frozen=True):
    ip: str | None = None


class LoadBalancer(_Slim, frozen=True):
    ingress: list[Ingress] | None = None


class ServiceStatus(_Slim, frozen=True):
    load_balancer: LoadBalancer | None = None


class Service(_Slim, frozen=True):
    metadata: Meta = Meta()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class TargetRef(_Slim, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class Endpoint(_Slim, frozen=True):
    addresses: list[str] | None = None
    target_ref: TargetRef | None = None
    zone: str | None = None
    node_name: str | None = None


class SlicePort(_Slim, frozen=True):
    port: int | None = None


class EndpointSlice(_Slim, frozen=True):
    metadata: Meta = Meta()
    endpoints: list[Endpoint] | None = None
    ports: list[SlicePort] | None = None


class NodeAddress(_Slim, frozen=True):
    type: str = ""
    address: str = ""


class NodeStatus(_Slim, frozen=True):
    addresses: list[NodeAddress] | None = None


class Node(_Slim, frozen=True):
    metadata: Meta = Meta()
    status: NodeStatus = NodeStatus()


class OnlyMeta(_Slim, frozen=True):
    """ReplicaSets, Jobs, Namespaces: who owns them, no more."""

    metadata: Meta = Meta()


KubernetesObject = Pod | Service | EndpointSlice | Node | OnlyMeta


class ListMeta(_Slim, frozen=True):
    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class RawList(_Slim, frozen=True):
    """A page of a list; items are decoded one by one, so that one bad object does not lose the page."""

    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class RawEvent(_Slim, frozen=True):
    """A watch event."""

    type: str
    object: msgspec.Raw


class Status(_Slim, frozen=True):
    """What an ERROR event carries, and the body of a refusal."""

    code: int = 0
    reason: str = ""
    message: str = ""
