"""Events -> flows: names both ends at the time of each event, and learns names from what the events carry."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from sidelight.agent import decode, layout
from sidelight.agent.decode import EventBatch
from sidelight.agent.flows import DnsText, FlowBatch, batch_bytes
from sidelight.agent.wire import DnsStreams, HelloStreams, dns_message
from sidelight.identity.conntrack import Conntrack
from sidelight.identity.model import EdgeNames, Identity, Kind, Provenance
from sidelight.identity.names import address_of
from sidelight.identity.resolver import PENDING, ClusterIndex, Resolver, named

SETTLE_S = 0.25
"""A flow named by a pod's address waits this long: by then we have heard of a change that came before it."""
_BY_ADDRESS = (Provenance.POD_IP, Provenance.CONNTRACK, Provenance.SERVICE_IP, Provenance.ENDPOINT_SLICE)
_BY_SOCKET = (Provenance.PEER_CGROUP, Provenance.LISTENER, Provenance.CONNTRACK)
"""Ways to know a remote end that no news of the cluster changes."""


class Learner:
    """Feeds the resolver's names from DNS answers, ClientHellos and Host headers. Holds pieces of split messages."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._hellos = HelloStreams()
        self._streams = DnsStreams()
        self.malformed = 0

    def learn(self, batch: EventBatch, times_ns: np.ndarray) -> dict[int, DnsText]:
        """Takes in what a batch teaches; returns the DNS exchanges by index."""
        exchanges: dict[int, DnsText] = {}
        names = self._resolver.names
        for index, payload in batch.payloads.items():
            event = batch.events[index]
            cgroup, at = int(event["key"]["cgroup_id"]), float(times_ns[index]) / 1e9
            if event["type"] == decode.TLS:
                server = self._hellos.feed(int(event["cookie"]), int(event["request_seq"]), payload)
                if server and not event["flags"] & decode.FLAG_INBOUND:
                    names.learn(cgroup, event["key"]["remote"].tobytes(), server, Provenance.SNI, at, 3600.0)
                continue
            message = dns_message(payload) if event["local_port"] and event["duration_ns"] else None
            if message is None:
                message = self._streams.feed(int(event["cookie"]), int(event["request_seq"]), payload)
            if message is None:
                self.malformed += 1
                continue
            exchanges[index] = DnsText(
                message.question, message.type, message.rcode, tuple(a for a, _ in message.addresses), message.names
            )
            for address, ttl in message.addresses:
                names.learn(cgroup, address_of(address), message.question, Provenance.DNS, at, ttl)
        self._learn_hosts(batch, times_ns)
        return exchanges

    def _learn_hosts(self, batch: EventBatch, times_ns: np.ndarray) -> None:
        keys = batch.events["key"]
        remotes = layout.rows_of(keys["remote"])
        cgroups, ports, roles = (keys[name].tolist() for name in ("cgroup_id", "port", "role"))
        learnt: set[tuple[int, bytes, int, str]] = set()
        for index, text in batch.texts.items():
            if not text.host or roles[index] != layout.ROLE_CLIENT:
                continue
            address = remotes[index]
            said = (cgroups[index], address, ports[index], text.host)
            if said in learnt:
                continue
            learnt.add(said)
            at = float(times_ns[index]) / 1e9
            # what the cluster knows needs no name from a request, and there are many such pairs
            if not self._resolver.known_to_cluster(address, ports[index], at):
                self._resolver.names.learn(cgroups[index], address, text.host, Provenance.HOST, at, 3600.0)


def attribute(
    batch: EventBatch,
    resolver: Resolver,
    learner: Learner,
    clock_offset_ns: int,
    conntrack: Conntrack | None = None,
    operations: dict[int, str] | None = None,
) -> FlowBatch:
    """Flows of a batch, names resolved once for each distinct edge; `conntrack` names a backend connection by connection."""
    events = batch.events
    times_ns = events["time_ns"].astype(np.int64) + clock_offset_ns
    dns = learner.learn(batch, times_ns)
    names, name_of = _name(events, times_ns, resolver, conntrack)
    size = batch_bytes(events, batch.texts, len(names))
    return FlowBatch(events, times_ns, name_of, names, batch.texts, dns, size, operations or {})


def rename(flows: FlowBatch, resolver: Resolver, conntrack: Conntrack | None = None) -> FlowBatch:
    """The same flows under the names that are known now, each still for its own time."""
    names, name_of = _name(flows.events, flows.times_ns, resolver, conntrack)
    return replace(flows, names=names, name_of=name_of)


def _name(
    events: np.ndarray, times_ns: np.ndarray, resolver: Resolver, conntrack: Conntrack | None
) -> tuple[tuple[EdgeNames, ...], np.ndarray]:
    """(names, index into them for each event)."""
    names: list[EdgeNames] = []
    places: dict[bytes, tuple[int, float, float]] = {}
    name_of = []
    keys = events["key"]
    columns = (keys[name].tolist() for name in ("cgroup_id", "peer_cgroup_id", "port", "role"))
    rows = zip(layout.rows_of(keys), layout.rows_of(keys["remote"]), (times_ns / 1e9).tolist(), *columns, strict=True)
    for index, (key, remote, at, cgroup, peer, port, role) in enumerate(rows):
        place, since, until = places.get(key, (-1, 0.0, 0.0))
        if place < 0 or not since <= at < until:
            place = len(names)
            names.append(_names(cgroup, peer, remote, port, role, resolver, at))
            places[key] = (place, *resolver.span(remote, at))
        name_of.append(place)
        if conntrack and _lacks_backend(names[place]):
            exact = _answering(events[index], names[place], resolver, conntrack, at)
            if exact is not None:
                name_of[index] = len(names)
                names.append(exact)
    return tuple(names), np.array(name_of, np.uint32)


def _names(cgroup: int, peer: int, remote: bytes, port: int, role: int, resolver: Resolver, at: float) -> EdgeNames:
    found = resolver.edge(cgroup, peer, remote, port, role, at, 0)
    if found.remote.kind is Kind.WORLD:
        return EdgeNames(found.local, named(found.remote, remote), found.service)
    return found


def _lacks_backend(names: EdgeNames) -> bool:
    return names.remote.kind is Kind.SERVICE and names.service is not None


def _answering(
    event: np.void, names: EdgeNames, resolver: Resolver, conntrack: Conntrack, at: float
) -> EdgeNames | None:
    backend = conntrack.find(
        event["local"].tobytes(),
        int(event["local_port"]),
        event["key"]["remote"].tobytes(),
        int(event["remote_port"]),
        at,
    )
    if backend is None or resolver.index is None or resolver.index.unsettled(backend, time.time()):
        return None  # the service's name is right as well; a pod's might not be
    owner = resolver.index.owner(backend, 0, at)
    return replace(names, remote=owner.known_by(Provenance.CONNTRACK)) if owner else None


def pending(flows: FlowBatch, index: ClusterIndex, now: float) -> np.ndarray:
    """Mask of the flows that may soon be named better: a pod's object, or news of an address, may be on the way."""
    if not len(flows):
        return np.zeros(0, bool)
    waits = np.array([PENDING in (names.local.reason, names.remote.reason) for names in flows.names], bool)
    by_address = np.array([names.remote.provenance in _BY_ADDRESS for names in flows.names], bool)
    used, first = np.unique(flows.name_of, return_index=True)
    for name, remote in zip(used.tolist(), layout.rows_of(flows.events["key"]["remote"][first]), strict=True):
        if not waits[name] and flows.names[name].remote.provenance not in _BY_SOCKET:
            waits[name] = index.unsettled(remote, now)
    young = flows.times_ns > (now - SETTLE_S) * 1e9
    mask: np.ndarray = waits[flows.name_of] | (by_address[flows.name_of] & young)
    return mask


def source_and_destination(names: EdgeNames, role: int) -> tuple[Identity, Identity]:
    """Client and server: the local end is the client's where the client reports."""
    return (names.local, names.remote) if role == layout.ROLE_CLIENT else (names.remote, names.local)
