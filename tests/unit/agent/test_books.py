"""Totals survive a kill anywhere: a generation is booked exactly once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.agent import layout
from sidelight.agent.books import KNOWN_GENERATIONS, LATENCY_TOTALS, Books, _pack_values, _unpack_values
from sidelight.agent.source import Generation
from sidelight.identity.resolver import Resolver


class NoTree:
    def path(self, cgroup_id: int) -> str | None:
        return f"/system.slice/unit{cgroup_id}.service"

    def processes(self, path: str) -> list[int]:
        return []


def resolver() -> Resolver:
    return Resolver(NoTree(), lambda pids: "")


def generation(number: int, counts: list[tuple[int, int]]) -> Generation:
    edges = np.zeros(len(counts), layout.EDGE_KEY)
    values = np.zeros(len(counts), layout.EDGE_VALUE)
    latencies = np.zeros(len(counts), layout.LATENCY_KEY)
    latency_values = np.zeros(len(counts), layout.LATENCY_VALUE)
    for index, (cgroup, count) in enumerate(counts):
        edges[index]["cgroup_id"], edges[index]["role"], edges[index]["port"] = cgroup, 2, 80
        values[index]["opened"] = count
        latencies[index]["edge"] = edges[index]
        latencies[index]["protocol"], latencies[index]["status"] = 1, 200
        latency_values[index]["buckets"][7] = count
    return Generation(number, edges, values, latencies, latency_values)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), max_size=4, unique_by=lambda t: t[0]), max_size=8
    ),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_a_journal_cut_anywhere_and_the_generation_again(tmp_path_factory, generations, data) -> None:  # type: ignore[no-untyped-def]
    journal = tmp_path_factory.mktemp("j") / "journal"
    books = Books(journal)
    for number, counts in enumerate(generations):
        before = journal.stat().st_size
        books.book(generation(number, counts), resolver(), float(number))
        if data.draw(st.booleans()):
            # killed while it wrote: the record is cut, the kernel still has the generation
            books.close()
            whole = journal.read_bytes()
            journal.write_bytes(whole[: data.draw(st.integers(before, len(whole)))])
            books = Books(journal)
            books.book(generation(number, counts), resolver(), float(number))
        books.book(generation(number, counts), resolver(), float(number))  # once more changes nothing
    books.close()
    again = Books(journal)
    expected = sum(count for counts in generations for _, count in counts)
    assert int(again.edges.values["opened"].sum()) == expected
    assert int(again.latencies.values["buckets"].sum()) == expected
    again.close()


def test_a_journal_of_garbage_is_no_crash(tmp_path: Path) -> None:
    for garbage in (b"", b"\0" * 7, b"\xff" * 4096, b"\x10\0\0\0\0\0\0\0" + b"x" * 16):
        (tmp_path / "j").write_bytes(garbage)
        books = Books(tmp_path / "j")
        assert len(books.edges) == 0
        books.close()


def test_bytes_that_came_with_latencies_belong_to_their_edges(tmp_path: Path) -> None:
    books = Books(tmp_path / "journal")
    first = generation(0, [(1, 1), (2, 1)])
    first.edge_values["tx_bytes"] = 10
    first.latency_values["tx_bytes"] = (5, 7)
    first.latency_values["rx_body_bytes"] = (0, 3)
    books.book(first, resolver(), 0.0)
    # an edge that has nothing but what its latencies carry
    second = generation(1, [(3, 0)])
    second = Generation(1, second.edge_keys[:0], second.edge_values[:0], second.latency_keys, second.latency_values)
    second.latency_values["rx_bytes"] = 4
    books.book(second, resolver(), 1.0)
    for each in (books, Books(tmp_path / "journal")):
        assert each.edges.values["tx_bytes"][:3].tolist() == [15, 17, 0]
        assert each.edges.values["rx_bytes"][:3].tolist() == [0, 0, 4]
        assert each.edges.values["rx_body_bytes"][:3].tolist() == [0, 3, 0]


def test_values_come_back_from_the_journal_as_they_were() -> None:
    values = np.zeros(3, LATENCY_TOTALS)
    values["sum_ns"] = (1, 0, 2**64 - 1)
    values["buckets"][1, 111] = 7
    packed = _pack_values(values)
    assert len(packed) < 50
    assert (_unpack_values(packed, 3, LATENCY_TOTALS) == values).all()
    assert len(_unpack_values(_pack_values(values[:0]), 0, LATENCY_TOTALS)) == 0
    for cut in (3, len(packed) - 1):
        with pytest.raises((ValueError, IndexError)):
            _unpack_values(packed[:cut], 3, LATENCY_TOTALS)


def test_a_key_whose_meaning_changed_goes_to_its_new_row(tmp_path: Path) -> None:
    books = Books(tmp_path / "journal")
    books.book(generation(0, [(1, 1)]), resolver(), 0.0)
    books.book(generation(1, [(1, 2)]), resolver(), 1.0)
    assert len(books.edges) == 1 and books.edges.values["opened"][0] == 3

    class Renamed(NoTree):
        def path(self, cgroup_id: int) -> str | None:
            return f"/system.slice/other{cgroup_id}.service"

    books.book(generation(2, [(1, 5)]), Resolver(Renamed(), lambda pids: ""), 2.0)
    assert books.edges.values["opened"][:2].tolist() == [3, 5]
    books.edges.keep(np.array([False, True]))
    books.latencies.keep(np.array([False, True]))
    books.book(generation(3, [(1, 1)]), Resolver(Renamed(), lambda pids: ""), 3.0)
    assert len(books.edges) == 1 and books.edges.values["opened"][0] == 6


def test_keys_of_the_past_are_forgotten(tmp_path: Path) -> None:
    books = Books(tmp_path / "journal")
    for number in range(4 * KNOWN_GENERATIONS):
        books.book(generation(number, [(1, 1), (1000 + number, 1)]), resolver(), float(number))
    assert 2 < len(books._known) <= 2 * KNOWN_GENERATIONS + 1
    assert 2 < len(books._known_latencies) <= 2 * KNOWN_GENERATIONS + 1
    assert books.edges.values["opened"][0] == 4 * KNOWN_GENERATIONS
