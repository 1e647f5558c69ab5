from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidelight.agent import handover
from sidelight.agent.loader import DEFAULT_BPFFS


@pytest.fixture
def pin() -> object:
    path = DEFAULT_BPFFS / f"sidelight-handover-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000])
def test_what_is_given_is_taken_once(pin: Path, size: int) -> None:
    data = os.urandom(size)
    handover.give(b"older", pin)
    handover.give(data, pin)
    assert handover.take(pin) == data
    assert handover.take(pin) is None and not pin.exists()


def test_a_damaged_one_is_nothing(pin: Path) -> None:
    from sidelight.agent import bpf

    handover.give(os.urandom(10_000), pin)
    array = bpf.open_pin(pin)
    bpf.update(array, b"\1\0\0\0", b"\xff" * handover.CHUNK_BYTES)
    os.close(array)
    assert handover.take(pin) is None and not pin.exists()
