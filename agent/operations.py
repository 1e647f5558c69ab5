"""Operations by their ids: what the kernel hashed, and the texts it announced (bpf/l7/operation.h). Pure."""

from __future__ import annotations

import struct

import numpy as np

from sidelight.agent import layout

OPERATION_BYTES = layout.CONSTANTS["OPERATION_BYTES"]
SEED = 0xCBF29CE484222325
FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def hash_word(hash_: int, word: int) -> int:
    """One more word of a text, as hash_word() of the kernel has it."""
    hash_ = ((hash_ ^ word) * FACTOR) & _MASK
    return hash_ ^ hash_ >> 29


def text_hash(text: bytes) -> int:
    """Hash of a text of OPERATION_BYTES at most, zeros behind it."""
    hash_ = SEED
    for (word,) in struct.iter_unpack("<Q", text[:OPERATION_BYTES].ljust(OPERATION_BYTES, b"\0")):
        hash_ = hash_word(hash_, word)
    return hash_


def identify(text: bytes) -> tuple[int, int]:
    """(id, check) of an operation, as the map `operations` has them."""
    hash_ = text_hash(text)
    return (hash_ >> 32) or 1, hash_ & 0xFFFFFFFF


def operation_name(names: dict[int, str], identifier: int) -> str:
    """Its text; its number until the announcement has come. Empty for none."""
    if not identifier:
        return ""
    return names.get(identifier) or f"#{identifier:08x}"


RETIRED = 0xFFFFFFFF
"""What exchanges of a forgotten operation are booked under from then on: kept in every sum, shown by no name."""
QUIET_S = 900.0
LOOK_EVERY_S = 10.0
SCARCE = 0.9


class Ages:
    """When operations were last used: which ones can make room. `kept` never do. Times are seconds since the epoch."""

    def __init__(self, capacity: int, kept: frozenset[int] = frozenset()) -> None:
        self._capacity, self._kept = capacity, kept
        self._used_at: dict[int, float] = {}
        self._looked_at = 0.0

    def note(self, operations: np.ndarray, now: float) -> None:
        """Those of a drained generation."""
        for identifier in np.unique(operations).tolist():
            if identifier:
                self._used_at[identifier] = now

    def due(self, now: float) -> bool:
        """Is it worth looking? Seldom, and only when places are scarce."""
        if now - self._looked_at < LOOK_EVERY_S or len(self._used_at) < SCARCE * self._capacity:
            return False
        self._looked_at = now
        return True

    def quiet(self, present: np.ndarray, now: float) -> list[int]:
        """Those in the kernel's map that nobody has used for QUIET_S; what the kernel does not have is forgotten here too."""
        there = set(present.tolist())
        self._used_at = {i: at for i, at in self._used_at.items() if i in there}
        found = [i for i in there - self._kept if now - self._used_at.setdefault(i, now) > QUIET_S]
        for identifier in found:
            del self._used_at[identifier]
        return found
