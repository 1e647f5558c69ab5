"""Totals from one agent to its successor where no directory outlives it: a bpf array pinned beside the maps.

A pod's state directory goes with the pod. At a clean stop the journal goes into an array made to its size; the next agent takes it
out and removes the array. After a kill -9 the container starts again in the same pod, and the journal itself is still there.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from sidelight.agent import bpf
from sidelight.agent.errors import BpfError

BPF_MAP_TYPE_ARRAY = 2
CHUNK_BYTES = 4096
MAX_BYTES = 64 << 20
_HEADER = struct.Struct("<QI")


def give(data: bytes, pin: Path) -> None:
    """Puts `data` where take() finds it. Raises BpfError."""
    packed = zlib.compress(data, 1)
    packed = _HEADER.pack(len(packed), zlib.crc32(packed)) + packed
    chunks = -(-len(packed) // CHUNK_BYTES)
    array = bpf.create_map(BPF_MAP_TYPE_ARRAY, "handover", 4, CHUNK_BYTES, chunks)
    try:
        for index in range(chunks):
            chunk = packed[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            bpf.update(array, struct.pack("<I", index), chunk.ljust(CHUNK_BYTES, b"\0"))
        pin.unlink(missing_ok=True)
        bpf.pin(array, pin)
    finally:
        os.close(array)


def take(pin: Path) -> bytes | None:
    """What the predecessor gave, once; None when there is nothing, or nothing whole."""
    if not pin.exists():
        return None
    try:
        array = bpf.open_pin(pin)
        try:
            packed = _read(array)
        finally:
            os.close(array)
    except BpfError:
        packed = None
    pin.unlink(missing_ok=True)
    try:
        return zlib.decompress(packed) if packed is not None else None
    except zlib.error:
        return None


def _read(array: int) -> bytes | None:
    first = bpf.lookup(array, struct.pack("<I", 0), CHUNK_BYTES)
    if first is None:
        return None
    size, checksum = _HEADER.unpack_from(first)
    if size > MAX_BYTES:
        return None
    found = bytearray(first)
    for index in range(1, -(-(size + _HEADER.size) // CHUNK_BYTES)):
        chunk = bpf.lookup(array, struct.pack("<I", index), CHUNK_BYTES)
        if chunk is None:
            return None
        found += chunk
    packed = bytes(found[_HEADER.size : _HEADER.size + size])
    return packed if zlib.crc32(packed) == checksum else None
