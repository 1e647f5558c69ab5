"""Reads the kernel's books and events through the pins. The I/O end of the pipeline: bytes out, nothing decoded.

Generations. The programs add to the inner map that the arrays `edges` and `latencies` point at. A drain sets the other
one, reads the quiet one, hands it to the caller and only then empties it. The number of the current generation is in the
pinned map `control`, so that an agent that was killed anywhere in between finds out what its predecessor had done:

    1. control = E + 1                  intent
    2. arrays -> inner[(E + 1) & 1]     the kernel returns when no program uses the old one any more
    3. read inner[E & 1]                generation E, complete
    4. caller writes E to its journal   from here on E counts as booked
    5. empty inner[E & 1]
"""

from __future__ import annotations

import ctypes as ct
import mmap
import os
import struct
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidelight.agent import bpf, layout
from sidelight.agent.errors import BpfError, SidelightError, UnsupportedFeature
from sidelight.agent.loader import Pins, Sizes, overflow_key
from sidelight.agent.operations import identify
from sidelight.agent.routes import END, Templates

_OPERATION = np.dtype([("id", "<u4")])
_COOKIE, _COUNT = np.dtype([("cookie", "<u8")]), np.dtype([("count", "<u4")])
_ROUTE_STEP = np.dtype([("segment", "<u8"), ("state", "<u4"), ("pad", "<u4")])
"""Keys of the maps `operations` and `route_steps`: struct route_step of bpf/l7/state.h."""
_STREAM_GRPC = layout.parse_constants(layout.source("l7/http2_stream.h"))["STREAM_GRPC"]
_ZERO = struct.pack("<I", 0)
CARRIED = ("rx_bytes", "rx_body_bytes", "tx_bytes", "tx_body_bytes")
"""Fields of struct latency_value that are added to the edge's of the same name."""
RING_BUSY, RING_DISCARD, RING_HEADER = 1 << 31, 1 << 30, 8


@dataclass(frozen=True, slots=True)
class Generation:
    """One drained generation: structured arrays of keys and values (dtypes of agent/layout.py)."""

    number: int
    edge_keys: np.ndarray
    edge_values: np.ndarray
    latency_keys: np.ndarray
    latency_values: np.ndarray

    def carried(self) -> tuple[np.ndarray, np.ndarray]:
        """(indexes of latencies, edge values): the bytes that were booked with latencies and belong to their edges."""
        with_bytes = np.zeros(len(self.latency_values), bool)
        for name in CARRIED:
            with_bytes |= self.latency_values[name] != 0
        indexes = np.flatnonzero(with_bytes)
        values = np.zeros(len(indexes), layout.EDGE_VALUE)
        for name in CARRIED:
            values[name] = self.latency_values[name][indexes]
        return indexes, values


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """Run time and runs of one program since it was loaded; 0 unless kernel.bpf_stats_enabled=1."""

    name: str
    run_time_ns: int
    run_count: int


class EventRing:
    """Consumer of a BPF ring buffer, mapped: polled, because a wake-up an event costs more than the event.

    Layout: Documentation/bpf/ringbuf.rst; one page of consumer position, one of producer position, then the data twice.
    """

    def __init__(self, fd: int) -> None:
        self.size = bpf.map_info(fd).entries
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(fd, page + 2 * self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumed = np.frombuffer(self._consumer, np.uint64, 1)
        self._produced = np.frombuffer(self._data, np.uint64, 1)
        self._offset = page

    def fill(self) -> float:
        """Share of the buffer that waits to be read."""
        return float(self._produced[0] - self._consumed[0]) / self.size

    def read(self, limit_bytes: int = 1 << 20) -> list[bytes]:
        """The records waiting, in order, about `limit_bytes` of them at most."""
        records: list[bytes] = []
        position, end = int(self._consumed[0]), int(self._produced[0])
        end = min(end, position + limit_bytes)
        data, mask = self._data, self.size - 1
        while position < end:
            start = self._offset + (position & mask)
            (header,) = struct.unpack_from("<I", data, start)
            if header & RING_BUSY:
                break  # reserved, not yet submitted: the next poll gets it
            length = header & ~(RING_BUSY | RING_DISCARD)
            if not header & RING_DISCARD:
                records.append(data[start + RING_HEADER : start + RING_HEADER + length])
            position += (length + RING_HEADER + 7) & ~7
        self._consumed_store(position)
        return records

    def _consumed_store(self, position: int) -> None:
        ct.c_uint64.from_buffer(self._consumer).value = position


class Source:
    """An instance's pinned maps, open. Raises UnsupportedFeature when the programs are not loaded."""

    def __init__(self, pins: Pins, sizes: Sizes | None = None) -> None:
        self.directory = find_maps(pins, sizes)
        self._fds = {path.name: bpf.open_pin(path) for path in self.directory.iterdir()}
        self._programs = pins.programs
        self.cpus = bpf.possible_cpus()
        self.edge_capacity = bpf.map_info(self._fds["edges_a"]).entries
        self.latency_capacity = bpf.map_info(self._fds["latencies_a"]).entries
        self.ring = EventRing(self._fds["events"])
        self.stream_capacity = bpf.map_info(self._fds["http2_streams"]).entries
        self.operation_capacity = bpf.map_info(self._fds["operations"]).entries
        self.fill_edges = 0
        self.fill_latencies = 0

    # -- books ---------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        raw = bpf.lookup(self._fds["control"], _ZERO, 8)
        number: int = struct.unpack("<Q", raw or bytes(8))[0]
        return number

    def recover(self) -> Generation:
        """What a predecessor may have left: the generation before the current one, perhaps empty.

        The caller books it unless its journal says it did, then calls clear().
        """
        current = self.generation()
        self._point(current)
        return self._read(current - 1) if current else self._nothing()

    def drain(self) -> Generation:
        """Steps 1 to 3. The caller books the result, then calls clear()."""
        current = self.generation()
        bpf.update(self._fds["control"], _ZERO, struct.pack("<Q", current + 1))
        self._point(current + 1)
        return self._read(current)

    def clear(self, generation: Generation) -> None:
        """Step 5: empties the generation's maps, but for the overflow entries, which are zeroed."""
        if generation.number < 0:
            return
        side = _side(generation.number)
        for name, keys in (("edges", generation.edge_keys), ("latencies", generation.latency_keys)):
            fd = self._fds[f"{name}_{side}"]
            bpf.delete_all(fd, keys)
            info = bpf.map_info(fd)
            bpf.update(fd, overflow_key(info.key_bytes), bytes(info.value_bytes))

    def _point(self, generation: int) -> None:
        for outer in ("edges", "latencies"):
            bpf.update(self._fds[outer], _ZERO, struct.pack("<I", self._fds[f"{outer}_{_side(generation)}"]))

    def _read(self, generation: int) -> Generation:
        side = _side(generation)
        edge_keys, edge_values = bpf.lookup_all(
            self._fds[f"edges_{side}"], layout.EDGE_KEY, layout.EDGE_VALUE, self.edge_capacity
        )
        latency_keys, latency_values = bpf.lookup_all(
            self._fds[f"latencies_{side}"], layout.LATENCY_KEY, layout.LATENCY_VALUE, self.latency_capacity
        )
        self.fill_edges, self.fill_latencies = len(edge_keys), len(latency_keys)
        return Generation(generation, edge_keys, edge_values, latency_keys, latency_values)

    def _nothing(self) -> Generation:
        return Generation(
            -1,
            np.zeros(0, layout.EDGE_KEY),
            np.zeros(0, layout.EDGE_VALUE),
            np.zeros(0, layout.LATENCY_KEY),
            np.zeros(0, layout.LATENCY_VALUE),
        )

    def active_calls(self) -> dict[tuple[bytes, int], int]:
        """gRPC calls that go on, by (struct edge_key, operation)."""
        _, streams = bpf.lookup_all(
            self._fds["http2_streams"], layout.HTTP2_STREAM_KEY, layout.HTTP2_STREAM, self.stream_capacity
        )
        streams = streams[(streams["flags"] & _STREAM_GRPC).astype(bool)]
        found: dict[tuple[bytes, int], int] = {}
        for key in zip(layout.rows_of(streams["edge"]), streams["operation"].tolist(), strict=True):
            found[key] = found.get(key, 0) + 1
        return found

    def sweep_streams(self) -> int:
        """Removes what the ends of connections have left in the map of streams. Returns how many."""
        cookies, _ = bpf.lookup_all(self._fds["http2_left"], _COOKIE, _COUNT, 1024)
        if not len(cookies):
            return 0
        keys, _ = bpf.lookup_all(
            self._fds["http2_streams"], layout.HTTP2_STREAM_KEY, layout.HTTP2_STREAM, self.stream_capacity
        )
        keys = keys[np.isin(keys["cookie"], cookies["cookie"])]
        bpf.delete_all(self._fds["http2_streams"], keys)
        bpf.delete_all(self._fds["http2_left"], cookies)
        return len(keys)

    # -- everything else -----------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """The kernel's counters since the maps were made, summed over CPUs."""
        values = {}
        for index, counter in enumerate(layout.counters()):
            raw = bpf.lookup(self._fds["counters"], struct.pack("<I", index), 8 * self.cpus) or b""
            values[counter.name] = sum(struct.unpack(f"<{len(raw) // 8}Q", raw))
        return values

    def settings(self) -> np.void:
        raw = bpf.lookup(self._fds["settings"], _ZERO, layout.SETTINGS.itemsize) or bytes(layout.SETTINGS.itemsize)
        found: np.void = np.frombuffer(raw, layout.SETTINGS)[0]
        return found

    def configure(self, settings: np.ndarray) -> None:
        """Puts settings (one element of layout.SETTINGS) in force at once."""
        bpf.update(self._fds["settings"], _ZERO, settings.tobytes())

    def adopt(self, roles: dict[int, int]) -> None:
        """Roles of sockets older than the programs, by cookie; as many as fit."""
        for cookie, role in roles.items():
            try:
                bpf.update(self._fds["adopted_roles"], struct.pack("<Q", cookie), struct.pack("<B", role))
            except BpfError:
                return

    def set_routes(self, templates: Templates) -> None:
        """Puts the templates of HTTP routes in the place of those before; their operations are known from the start."""
        fd = self._fds["route_steps"]
        keys, _ = bpf.lookup_all(fd, _ROUTE_STEP, np.dtype([("to", "<u4")]), bpf.map_info(fd).entries)
        bpf.delete_all(fd, keys)
        for (state, segment), to in templates.steps.items():
            if segment == END:
                to, check = identify(templates.templates[to - 1].encode())
                bpf.update(self._fds["operations"], struct.pack("<I", to), struct.pack("<II", check, 1))
            bpf.update(fd, struct.pack("<QII", segment, state, 0), struct.pack("<I", to))

    def operations(self) -> np.ndarray:
        """Ids of the operations that count apart."""
        return bpf.lookup_all(self._fds["operations"], _OPERATION, layout.OPERATION_VALUE, self.operation_capacity)[0][
            "id"
        ]

    def announce_again(self, known: Container[int]) -> None:
        """Has the kernel announce the operations whose text is not known."""
        fd = self._fds["operations"]
        keys, values = bpf.lookup_all(fd, _OPERATION, layout.OPERATION_VALUE, self.operation_capacity)
        for identifier, check in zip(keys["id"].tolist(), values["check"].tolist(), strict=True):
            if identifier not in known:
                bpf.update(fd, struct.pack("<I", identifier), struct.pack("<II", check, 0))

    def forget_operations(self, identifiers: Iterable[int]) -> None:
        """Makes room: the kernel learns them again if they come again."""
        for identifier in identifiers:
            bpf.delete(self._fds["operations"], struct.pack("<I", identifier))

    def check_attached(self) -> None:
        """Raises SidelightError when the links' pins are gone: unloaded by somebody, or the BPF file system unmounted."""
        if not self._programs.parent.joinpath("links", "sock_ops").exists():
            raise SidelightError(
                f"the programs are gone from {self._programs.parent}: unloaded or unmounted; restart the agent"
            )

    def costs(self) -> list[ProgramCost]:
        """Of the attached programs; those reached by tail call are part of their callers' figures."""
        found = []
        for path in sorted(self._programs.iterdir()) if self._programs.is_dir() else ():
            # by their own pins: asking a link for its program's number and that for the program needs CAP_SYS_ADMIN
            program = bpf.open_pin(path)
            try:
                info = bpf.program_info(program)
            finally:
                os.close(program)
            found.append(ProgramCost(path.name, info.run_time_ns, info.run_count))
        return found


def _side(generation: int) -> str:
    return "ab"[generation & 1]


def find_maps(pins: Pins, sizes: Sizes | None) -> Path:
    """The directory of maps this version can read. Raises UnsupportedFeature when there is none."""
    if sizes is not None:
        wanted = pins.maps(sizes)
        if wanted.is_dir():
            return wanted
    for path in sorted(pins.root.glob(f"maps-{layout.layout_hash()}-*")):
        return path
    raise UnsupportedFeature(f"no programs of this version are loaded for instance {pins.root.name}")
