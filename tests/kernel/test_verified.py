"""This kernel's verifier against the record (tests/kernels/record.py). `python -m tests.kernel.test_verified` writes it anew."""

from __future__ import annotations

import platform

from sidelight.agent.loader import LoadRequest, run_loader
from tests.kernels import record
from tests.observed import Observed, observed


def measured(watch: Observed) -> record.Programs:
    report = run_loader(LoadRequest(str(watch.cgroup), watch.instance))
    found: record.Programs = record.costs(report.verified, report.stack)
    return found


def test_no_jump_without_a_reason(watch: Observed) -> None:
    assert record.complaints(record.version(platform.release()), measured(watch)) == []


def test_what_is_recorded_is_within_the_budget() -> None:
    for kernel, programs in record.read().items():
        assert record.complaints(kernel, programs) == [], kernel


def test_a_jump_is_seen() -> None:
    kernel, programs = next(iter(record.read().items()))
    for name, cost in programs.items():
        for more in ({"instructions": cost["instructions"] * 2 + 2000}, {"stack_bytes": cost["stack_bytes"] + 32}):
            assert record.complaints(kernel, {**programs, name: {**cost, **more}}), (name, more)


if __name__ == "__main__":
    with observed() as found:
        record.write(record.version(platform.release()), measured(found))
