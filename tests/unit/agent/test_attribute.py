"""Names of a batch: once for each edge and time, and again only when there is news."""

from __future__ import annotations

from typing import Any

import numpy as np

from sidelight.agent import attribute, decode, layout
from sidelight.agent.attribute import Learner
from sidelight.agent.decode import EventBatch, RequestText
from sidelight.identity.index import Index
from sidelight.identity.model import Kind, Provenance
from sidelight.identity.names import address_of
from sidelight.identity.resolver import Resolver
from tests.unit.identity.test_index import Nowhere, pod

SECOND = 10**9


def requests(*remotes: str) -> np.ndarray:
    """A client's request to each of the addresses."""
    events = np.zeros(len(remotes), layout.EVENT)
    events["type"], events["key"]["role"], events["key"]["cgroup_id"] = decode.REQUEST, layout.ROLE_CLIENT, 7
    events["key"]["port"] = 80
    for event, address in zip(events, remotes, strict=True):
        event["key"]["remote"] = np.frombuffer(address_of(address), np.uint8)
    return events


def named(resolver: Resolver, events: np.ndarray, times_s: list[float]) -> attribute.FlowBatch:
    events["time_ns"] = (np.array(times_s) * SECOND).astype(np.uint64)
    return attribute.attribute(EventBatch(events), resolver, Learner(resolver), 0)


def test_an_edge_is_asked_once_until_its_address_changes_hands(monkeypatch: Any) -> None:
    index = Index()
    index.put("pods", pod("old", ["10.0.0.1"]), 10.0)
    index.remove("pods", "old", 20.0)
    index.put("pods", pod("new", ["10.0.0.1"]), 20.0)
    resolver = Resolver(Nowhere(), lambda pids: "", index=index)
    asked = []
    edge = resolver.edge
    monkeypatch.setattr(resolver, "edge", lambda *arguments: asked.append(arguments[5]) or edge(*arguments))
    flows = named(resolver, requests(*["10.0.0.1"] * 5), [15.0, 16.0, 19.5, 21.0, 22.0])
    assert [flows.names[place].remote.name for place in flows.name_of] == ["old"] * 3 + ["new"] * 2
    assert asked == [15.0, 21.0]


def test_a_flow_by_address_waits_a_moment_and_is_named_by_what_is_heard_in_it() -> None:
    index = Index()
    index.put("pods", pod("old", ["10.0.0.1"]), 10.0)
    resolver = Resolver(Nowhere(), lambda pids: "", index=index)
    flows = named(resolver, requests("10.0.0.1", "192.0.2.1"), [30.0, 30.0])
    assert attribute.pending(flows, index, 30.1).tolist() == [True, False]
    assert attribute.pending(flows, index, 30.0 + attribute.SETTLE_S + 0.1).tolist() == [False, False]
    before = resolver.version
    index.remove("pods", "old", 29.0)
    index.put("pods", pod("new", ["10.0.0.1"]), 29.5)
    assert resolver.version != before
    again = attribute.rename(flows, resolver)
    assert [again.names[place].remote.name for place in again.name_of] == ["new", "192.0.2.1"]
    assert again.names[again.name_of[1]].remote.kind is Kind.WORLD


def test_a_host_is_learnt_once_for_a_batch(monkeypatch: Any) -> None:
    resolver = Resolver(Nowhere(), lambda pids: "", index=Index())
    learnt = []
    learn = resolver.names.learn
    monkeypatch.setattr(resolver.names, "learn", lambda *a: learnt.append((a[2], a[3])) or learn(*a))
    events = requests(*["192.0.2.1"] * 4, "192.0.2.2")
    events["key"]["role"][4] = layout.ROLE_SERVER
    hosts = ("a.example", "a.example", "", "b.example", "c.example")
    texts = {index: RequestText("GET", "/", "HTTP/1.1", host) for index, host in enumerate(hosts)}
    Learner(resolver).learn(EventBatch(events, texts), np.full(5, 11 * SECOND))
    assert learnt == [("a.example", Provenance.HOST), ("b.example", Provenance.HOST)]
