"""A small run of benchmarks/identity_accuracy: no wrong name, every flow of the node seen; and the benchmark is not too easy."""

from __future__ import annotations

from benchmarks import identity_accuracy


def test_no_wrong_name_while_addresses_change_hands() -> None:
    found = identity_accuracy.run(flows=8000, lifetimes=90, clients=8)
    assert found["flows"] > 4000 and found["of_them_seen"] + found["events_lost"] >= found["flows_of_the_node"]
    ours = [found[f"Sidelight, {end}"] for end in ("local end", "remote end")]
    naive = [found[f"latest owner of the address, {end}"] for end in ("local end", "remote end")]
    assert [row["wrong"] for row in ours] == [0, 0]
    # a short run has more of the moments at which addresses change hands than its share
    assert sum(row["unresolved"] for row in ours) <= 0.01 * sum(row["ends"] for row in ours)
    assert sum(row["wrong"] for row in naive) > 0
