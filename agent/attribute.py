"""Events -> flows: names both ends at the time of each event, and learns names from what the events carry."""

from __future__ import annotations

import numpy as np

from sidelight.agent import decode, layout
from sidelight.agent.decode import EventBatch
from sidelight.agent.flows import DnsText, FlowBatch, batch_bytes
from sidelight.agent.wire import DnsStreams, HelloStreams, dns_message
from sidelight.identity.model import EdgeNames, Identity, Kind, Provenance
from sidelight.identity.names import address_of
from sidelight.identity.resolver import Resolver, named


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
        for index, text in batch.texts.items():
            key = batch.events[index]["key"]
            if text.host and key["role"] == layout.ROLE_CLIENT:
                names.learn(
                    int(key["cgroup_id"]),
                    key["remote"].tobytes(),
                    text.host,
                    Provenance.HOST,
                    float(times_ns[index]) / 1e9,
                    3600.0,
                )
        return exchanges


def attribute(batch: EventBatch, resolver: Resolver, learner: Learner, clock_offset_ns: int) -> FlowBatch:
    """Flows of a batch, names resolved once for each distinct edge."""
    events = batch.events
    times_ns = events["time_ns"].astype(np.int64) + clock_offset_ns
    dns = learner.learn(batch, times_ns)
    names: list[EdgeNames] = []
    places: dict[bytes, int] = {}
    name_of = np.zeros(len(events), np.uint32)
    keys = events["key"]
    for index in range(len(events)):
        raw = keys[index].tobytes()
        place = places.get(raw)
        if place is None:
            place = places[raw] = len(names)
            names.append(_names(keys[index], resolver, float(times_ns[index]) / 1e9))
        name_of[index] = place
    size = batch_bytes(events, batch.texts, len(names))
    return FlowBatch(events, times_ns, name_of, tuple(names), batch.texts, dns, size)


def _names(key: np.void, resolver: Resolver, at: float) -> EdgeNames:
    remote = key["remote"].tobytes()
    found = resolver.edge(
        int(key["cgroup_id"]), int(key["peer_cgroup_id"]), remote, int(key["port"]), int(key["role"]), at, 0
    )
    if found.remote.kind is Kind.WORLD:
        return EdgeNames(found.local, named(found.remote, remote), found.service)
    return found


def source_and_destination(names: EdgeNames, role: int) -> tuple[Identity, Identity]:
    """Client and server: the local end is the client's where the client reports."""
    return (names.local, names.remote) if role == layout.ROLE_CLIENT else (names.remote, names.local)
