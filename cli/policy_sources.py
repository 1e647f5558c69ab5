"""Where `sidelight policy` has its facts from: flows of agents or recordings; objects of a cluster or of files."""

from __future__ import annotations

import ipaddress
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.analysis.policy.model import Address, Cluster, End, Labels, Pod, Policy, Traffic, labels_of
from sidelight.analysis.policy.objects import KINDS, as_the_api_has_it, cluster_of, namespace_of, policy_of
from sidelight.analysis.policy.observed import Observation
from sidelight.exporter.detail import detail_of
from sidelight.exporter.proto import flow_pb2, observer_pb2
from sidelight.exporter.verify.prometheus import Api, SeriesKey, fetch
from sidelight.exporter.verify.series import Series, along
from sidelight.identity.objects import timestamp

PATHS = {
    "/api/v1/namespaces": "Namespace",
    "/api/v1/nodes": "Node",
    "/api/v1/pods": "Pod",
    "/api/v1/services": "Service",
    "/apis/discovery.k8s.io/v1/endpointslices": "EndpointSlice",
    "/apis/networking.k8s.io/v1/networkpolicies": "NetworkPolicy",
    "/apis/batch/v1/cronjobs": "CronJob",
    "/apis/batch/v1/jobs": "Job",
    "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies": "AdminNetworkPolicy",
    "/apis/policy.networking.k8s.io/v1alpha1/baselineadminnetworkpolicies": "BaselineAdminNetworkPolicy",
    "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies": "ClusterNetworkPolicy",
    "/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies": "ClusterNetworkPolicy",
}
OPTIONAL = frozenset(path for path in PATHS if "policy.networking" in path or "/batch/" in path)
MOST_BYTES = 512 << 20
_SERVERS = ("peer-cgroup", "listener")
"""The server's end, on the same node, reports the connection too where its name was known so."""


@dataclass(frozen=True, slots=True)
class Service:
    """A port of a Service. `target`: the port's number or name at its pods."""

    namespace: str
    name: str
    selector: Labels
    port: int
    target: int | str


@dataclass(slots=True)
class Objects:
    """A cluster's: what policies are about, the policies, jobs that run now and then."""

    cluster: Cluster = field(default_factory=Cluster)
    policies: list[Policy] = field(default_factory=list)
    cron_jobs: dict[str, float] = field(default_factory=dict)
    """Name -> last run, seconds since the epoch; 0: never."""
    services: dict[Address, list[Service]] = field(default_factory=dict)
    endpoints: dict[tuple[str, str], list[Address]] = field(default_factory=dict)
    """Of Services, by namespace and name: what is behind those without a selector, such as the API server's."""
    began: dict[str, float] = field(default_factory=dict)
    """When the oldest pod of each workload began."""


def objects_of(documents: Iterable[dict[str, Any]]) -> Objects:
    """Raises ConfigError for what the API server would not take."""
    documents = list(documents)
    found = Objects(cluster_of(documents))
    born: dict[tuple[str, str], float] = {}
    titles: set[str] = set()
    for document in documents:
        if document.get("kind") in KINDS:
            policy = policy_of(document)
            if policy.title not in titles:  # the API server tells of one in each version it serves
                titles.add(policy.title)
                found.policies.append(policy)
            continue
        with as_the_api_has_it(document):
            if document.get("kind") == "CronJob":
                last = (document.get("status") or {}).get("lastScheduleTime")
                name = f"{namespace_of(document)}/{document['metadata']['name']}"
                found.cron_jobs[name] = timestamp(last) or 0.0
            elif document.get("kind") == "Service":
                _add_service(found, document)
            elif document.get("kind") == "EndpointSlice":
                _add_endpoints(found, document)
            elif document.get("kind") == "Pod":
                meta = document["metadata"]
                born[namespace_of(document), meta["name"]] = timestamp(meta.get("creationTimestamp")) or 0.0
    for pod in found.cluster.pods:
        at = born.get((pod.namespace, pod.name), 0.0)
        found.began[pod.title] = min(found.began.get(pod.title, at), at)
    return found


def _add_endpoints(objects: Objects, document: dict[str, Any]) -> None:
    service = (document["metadata"].get("labels") or {}).get("kubernetes.io/service-name", "")
    found = objects.endpoints.setdefault((namespace_of(document), service), [])
    if document.get("addressType") == "FQDN":
        return
    for endpoint in document.get("endpoints") or ():
        found += [ipaddress.ip_address(text) for text in endpoint.get("addresses") or ()]


def _add_service(objects: Objects, document: dict[str, Any]) -> None:
    spec, namespace = document.get("spec") or {}, namespace_of(document)
    addresses = [text for text in spec.get("clusterIPs") or [spec.get("clusterIP")] if text and text != "None"]
    for text in addresses:
        for port in spec.get("ports") or ():
            name, target = document["metadata"]["name"], port.get("targetPort") or port["port"]
            service = Service(namespace, name, labels_of(spec.get("selector")), int(port["port"]), target)
            objects.services.setdefault(ipaddress.ip_address(text), []).append(service)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Times are text, as in JSON."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_documents(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a YAML or JSON file, lists taken apart; of a directory, its .yaml, .yml and .json files'. Raises ConfigError."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            if child.suffix in (".yaml", ".yml", ".json"):
                yield from read_documents(child)
        return
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_BYTES >> 20} MB")
        text = path.read_text("utf-8")
        documents = [json.loads(text)] if text.lstrip().startswith("{") else list(yaml.load_all(text, _Loader))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: not Kubernetes objects")
        if str(document.get("kind", "")).endswith("List"):
            kind = str(document["kind"]).removesuffix("List")
            items = document.get("items") or []
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise ConfigError(f"{path}: not a list of Kubernetes objects")
            yield from ({"kind": kind, **item} if kind else item for item in items)
        else:
            yield document


def read_cluster(kubeconfig: str) -> Objects:
    """Of the API server. Raises SidelightError."""
    from sidelight.identity.kubernetes import ClusterUnreachable
    from sidelight.identity.listing import ListingFailed, listing

    with tempfile.TemporaryDirectory(prefix="sidelight-policy-") as scratch:
        try:
            return objects_of(listing(kubeconfig, PATHS, Path(scratch), optional=OPTIONAL))
        except (ClusterUnreachable, ListingFailed) as error:
            raise SidelightError(f"Kubernetes: {error}") from None


# -- flows -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Flows:
    """Observations, and what one should know of them."""

    observations: list[Observation] = field(default_factory=list)
    lost: int = 0
    nodes: set[str] = field(default_factory=set)


class Reader:
    """Turns flows into observations; identity as of the flow, ports and nodes by the cluster's objects.

    A connection is reported at both ends where both have an agent: then the server's report counts, which has the backend and its port.
    """

    def __init__(self, objects: Objects) -> None:
        self._pods = {(pod.namespace, pod.name): pod for pod in objects.cluster.pods}
        self._nodes = {address: node for node in objects.cluster.nodes for address in node.addresses}
        self._services, self._endpoints = objects.services, objects.endpoints

    def read(self, responses: Iterable[observer_pb2.GetFlowsResponse]) -> Flows:
        found = Flows()
        clients: list[tuple[Observation, set[str]]] = []
        for response in responses:
            if response.HasField("lost_events"):
                found.lost += response.lost_events.num_events_lost
            elif response.HasField("flow"):
                found.nodes.add(response.flow.node_name.rpartition("/")[2])
                self._take(response.flow, found.observations, clients)
        # a client's own report, where nobody reports from the server's node; an attempt that failed, in any case
        found.observations += [seen for seen, nodes in clients if seen.failed or not nodes & found.nodes]
        return found

    def _take(
        self, flow: flow_pb2.Flow, servers: list[Observation], clients: list[tuple[Observation, set[str]]]
    ) -> None:
        detail = detail_of(flow)
        client = detail.reporter == "source"
        udp = flow.l4.WhichOneof("protocol") == "UDP"
        if detail.kind not in ("open", "fail", "dns", "close"):
            return
        if (detail.kind == "dns" and not udp) or (
            client and detail.kind != "fail" and detail.destination_provenance in _SERVERS
        ):
            return
        port = (flow.l4.UDP if udp else flow.l4.TCP).destination_port
        source = self._end(flow.source, flow.IP.source, flow.source_names)
        destination = self._end(flow.destination, flow.IP.destination, flow.destination_names)
        if source is None or destination is None or not port:
            return
        nodes = {destination.pod.node} if destination.pod else set()
        dialled = None
        address = destination.address
        if client and address is not None and address in self._services:
            dialled = address
            destination, port, nodes = self._backend(destination, port)
        seen = Observation(
            Traffic(source, destination, port, "UDP" if udp else "TCP", dialled),
            flow.time.ToNanoseconds() / 1e9,
            failed=detail.kind == "fail",
            # an end tells the bytes of a connection whose opening was counted, unless that was before the agent
            count=0 if detail.kind == "close" and not detail.adopted else 1,
            bytes=detail.sent_bytes + detail.received_bytes,
            known=(detail.source_provenance, detail.destination_provenance),
            reason=detail.reason if detail.kind == "fail" else "",
        )
        if client:
            # of datagrams servers report nothing
            clients.append((seen, set() if udp else nodes))
        else:
            servers.append(seen)

    def _backend(self, dialled: End, port: int) -> tuple[End, int, set[str]]:
        """(a pod behind the Service, its port, the nodes of all of them)."""
        assert dialled.address is not None
        service = next((found for found in self._services[dialled.address] if found.port == port), None)
        if service is None:
            return dialled, port, set()
        if not service.selector:
            # the API server's among them: policies see what is behind it
            behind = self._endpoints.get((service.namespace, service.name)) or [dialled.address]
            address = next((a for a in behind if a.version == dialled.address.version), behind[0])
            names = (f"{service.name}.{service.namespace}.svc",)
            number = service.target if isinstance(service.target, int) else port
            return End(address, node=self._nodes.get(address), names=names), number, set()
        pods = [
            p
            for p in self._pods.values()
            if p.namespace == service.namespace and set(service.selector) <= set(p.labels)
        ]
        named = dialled.pod
        chosen = next(
            (p for p in pods if named is None or (p.namespace, p.name) == (named.namespace, named.name)), None
        )
        chosen = chosen or (pods[0] if pods else None)
        if chosen is None:
            return dialled, port, set()
        target = service.target
        if isinstance(target, str):
            target = next((number for name, _, number in chosen.ports if name == target), port)
        address = next((a for a in chosen.addresses if a.version == dialled.address.version), dialled.address)
        return End(address, pod=chosen), target, {pod.node for pod in pods}

    def _end(self, endpoint: flow_pb2.Endpoint, ip: str, names: Iterable[str]) -> End | None:
        try:
            address: Address = ipaddress.ip_address(ip)
        except ValueError:
            return None
        node = self._nodes.get(address)
        if not endpoint.pod_name or not endpoint.namespace:
            return End(address, node=node, names=tuple(names))
        known = self._pods.get((endpoint.namespace, endpoint.pod_name))
        labels = labels_of(dict(_labels(endpoint.labels)))
        owner = endpoint.workloads[0].name if endpoint.workloads else endpoint.pod_name
        if known is not None:
            host = known.host_network
            pod = known if known.labels == labels and known.owner == owner else Pod(
                known.name, known.namespace, labels, known.addresses, known.ports, known.node, host, owner
            )  # fmt: skip
            return End(address, pod=pod, node=node if host else None)
        return End(address, pod=Pod(endpoint.pod_name, endpoint.namespace, labels, (address,), owner=owner))


def from_prometheus(api: Api, objects: Objects, since_s: float, now: float) -> Flows:
    """Connections by workload, as servers' agents counted them: integers, resets taken in. Raises SidelightError.

    A workload is one of its pods, by whose labels it is judged. What goes outside has no address here, and is left out: warned of as lost.
    """
    pods: dict[tuple[str, str], Pod] = {}
    for pod in objects.cluster.pods:
        pods.setdefault((pod.namespace, pod.owner or pod.name), pod)
    found = Flows()
    start = now - since_s
    series: dict[SeriesKey, Series] = {}
    fetch(series, api, "", 'sidelight_tcp_connections_opened_total{reporter="destination"}', start, now)
    for one in series.values():
        labels, samples = one.labels, [sample for sample in one.samples if sample[0] > start]
        if not samples:
            continue
        count = along(one.samples, [start, now])[-1]
        ends = [
            pods.get((labels.get(f"{side}_workload_namespace", ""), labels.get(f"{side}_workload", "")))
            for side in ("source", "destination")
        ]
        found.nodes.add(labels.get("node", labels.get("instance", "")))
        if not count:
            continue
        if ends[0] is None or ends[1] is None or not labels.get("server_port"):
            found.lost += count
            continue
        source, destination = (End(pod.addresses[0] if pod.addresses else None, pod=pod) for pod in ends if pod)
        traffic = Traffic(source, destination, int(labels["server_port"]), "TCP")
        found.observations.append(Observation(traffic, samples[0][0], count=count, known=("prometheus", "prometheus")))
        found.observations.append(Observation(traffic, samples[-1][0], count=0, known=("prometheus", "prometheus")))
    return found


def _labels(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Out of Cilium's form."""
    for text in texts:
        key, _, value = text.removeprefix("k8s:").partition("=")
        if text.startswith("k8s:") and key != "io.kubernetes.pod.namespace":
            yield key, value
