"""The ring of flows against a list: what a reader gets, and what it is told to have missed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent import layout
from sidelight.agent.decode import RequestText
from sidelight.agent.flows import DnsText, FlowBatch, FlowRing, batch_bytes, select
from sidelight.identity.model import EdgeNames, Identity, Kind

NAMES = (EdgeNames(Identity(Kind.UNIT, "a"), Identity(Kind.UNIT, "b"), None),)


def batch(cookies: range) -> FlowBatch:
    events = np.zeros(len(cookies), layout.EVENT)
    events["cookie"] = np.array(cookies, np.uint64)
    texts = {index: RequestText(path=f"/{cookie}") for index, cookie in enumerate(cookies) if cookie % 2}
    dns = {index: DnsText(f"n{cookie}", 1, 0, (), ()) for index, cookie in enumerate(cookies) if cookie % 3 == 0}
    name_of = np.zeros(len(cookies), np.uint32)
    return FlowBatch(events, events["cookie"].astype(np.int64), name_of, NAMES, texts, dns, batch_bytes(events, texts, 1))  # fmt: skip


def numbers(ring: FlowRing, position: int) -> tuple[list[int], int, int]:
    found, following, missed = ring.read(position)
    got = []
    for first, flows in found:
        for index in range(max(0, position - first), len(flows)):
            flow = flows.flow(index, first + index)
            assert flow.number == int(flow.event["cookie"]), "a flow has the number it was appended under"
            got.append(flow.number)
    return got, following, missed


@given(st.lists(st.one_of(st.integers(0, 40), st.none()), max_size=60), st.integers(2000, 60_000))
def test_a_reader_gets_every_flow_once_or_is_told(script: list[int | None], limit: int) -> None:
    """A number appends so many flows, None lets the reader read."""
    ring = FlowRing(limit)
    position = appended = 0
    got: list[int] = []
    missed = 0
    for step in [*script, None]:
        if step is not None:
            ring.append(batch(range(appended, appended + step)))
            appended += step
            continue
        fresh, position, lost = numbers(ring, position)
        got += fresh
        missed += lost
    assert ring.seen == appended == position
    assert len(got) + missed == appended
    assert got == sorted(set(got)) and (not got or got[-1] == appended - 1)
    assert ring.bytes <= max(limit, batch(range(3000, 3040)).bytes), "one batch stays, however large"


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_select_keeps_texts_with_their_flows(chosen: list[bool]) -> None:
    whole = batch(range(len(chosen)))
    part = select(whole, np.array(chosen))
    kept = [cookie for cookie, wanted in enumerate(chosen) if wanted]
    assert part.events["cookie"].tolist() == kept
    for index, cookie in enumerate(kept):
        flow = part.flow(index, index)
        assert flow.text.path == (f"/{cookie}" if cookie % 2 else "")
        assert (flow.dns.query if flow.dns else "") == (f"n{cookie}" if cookie % 3 == 0 else "")
