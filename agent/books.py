"""Totals since the beginning, by identity, that survive a kill -9.

Each generation drained from the kernel is attributed and added to rows; the rows that changed are appended to a journal
before the kernel's copy is emptied (agent/source.py has the order of steps). A restarted agent replays the journal, so a
generation is booked exactly once. The journal is rewritten as a snapshot when it has grown.

Rows are columns of numpy arrays; keys are interned once. Cost follows the number of edges, never the traffic.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from sidelight.agent import layout
from sidelight.agent.closeup import Closeups
from sidelight.agent.operations import RETIRED
from sidelight.agent.source import Generation
from sidelight.identity.model import OVERFLOW, EdgeNames, Identity, Kind, Provenance, ServiceName
from sidelight.identity.resolver import PENDING, Resolver

T = TypeVar("T")
EDGE_TOTALS = layout.EDGE_VALUE
_SUMS = ("sum_ns", "untimed", "first_ns", "first_count", "tx_messages", "rx_messages")
LATENCY_TOTALS = np.dtype([*((name, "<u8") for name in _SUMS), ("buckets", "<u8", (layout.LATENCY_BUCKETS,))])
COMPACT_BYTES = 16 << 20
KNOWN_GENERATIONS = 32
"""How long it is remembered what a kernel's key was: so many generations after its last, twice as many at most."""
HOLD_S = 5.0
"""How long the rows of a pod that nobody has told about yet are kept back."""


_DETAILS = ("protocol", "method", "status", "operation")
"""Of struct latency_key, in the order of LatencyKey."""
_EDGE_KEY = struct.Struct("<QQ16sHB")
"""The first fields of struct edge_key; tests/unit/agent/test_layout.py holds the two together."""
_OVERFLOW_ENDS = EdgeNames(OVERFLOW, OVERFLOW)


@dataclass(frozen=True, slots=True)
class EdgeKey:
    """An edge between named ends. Role: who reports, as in struct edge_key."""

    role: int
    local: Identity
    remote: Identity
    service: ServiceName | None
    port: int


@dataclass(frozen=True, slots=True)
class LatencyKey:
    """A kind of exchange on an edge."""

    edge: EdgeKey
    protocol: int
    method: int
    status: int
    operation: int = 0


def metric_identity(identity: Identity) -> Identity:
    """The part of an identity that metrics are kept by: the workload, not the pod, and never an address."""
    if identity.reason == PENDING:
        return identity
    name = identity.workload or identity.name
    return Identity(
        identity.kind,
        name,
        namespace=identity.namespace,
        workload=name,
        workload_kind=identity.workload_kind,
        app=identity.app,
        version=identity.version,
        service_name=identity.service_name,
        cluster=identity.cluster,
        zone=identity.zone,
        metric_labels=identity.metric_labels,
        reason=identity.reason if identity.kind is Kind.UNKNOWN or identity.kind is Kind.NODE else "",
    )


@dataclass(slots=True)
class Table:
    """Rows by key. `changed_at` is the time of a row's last growth, for the series' TTL."""

    dtype: np.dtype[Any]
    keys: list[Any] = field(default_factory=list)
    rows: dict[Any, int] = field(default_factory=dict)
    values: np.ndarray = field(init=False)
    changed_at: np.ndarray = field(init=False)
    created_at: np.ndarray = field(init=False)
    moves: int = 0
    """How often rows got other numbers."""

    def __post_init__(self) -> None:
        self.values = np.zeros(64, self.dtype)
        self.changed_at = np.zeros(64)
        self.created_at = np.zeros(64)

    def __len__(self) -> int:
        return len(self.keys)

    def row(self, key: Any, at: float) -> int:
        index = self.rows.get(key)
        if index is None:
            index = len(self.keys)
            if index == len(self.values):
                self.values = np.concatenate([self.values, np.zeros(index, self.dtype)])
                self.changed_at = np.concatenate([self.changed_at, np.zeros(index)])
                self.created_at = np.concatenate([self.created_at, np.zeros(index)])
            self.keys.append(key)
            self.rows[key] = index
            self.created_at[index] = at
        return index

    def add(self, indexes: np.ndarray, values: np.ndarray, at: float) -> None:
        """values[i] is added to row indexes[i]; rows may repeat. Fields are matched by name."""
        for name in self.dtype.names or ():
            np.add.at(self.values[name], indexes, values[name].astype(np.uint64, copy=False))
        self.changed_at[indexes] = at

    def keep(self, wanted: np.ndarray) -> None:
        """Drops the rows whose flag is false."""
        indexes = np.flatnonzero(wanted[: len(self.keys)])
        self.values = np.concatenate([self.values[indexes], np.zeros(max(64, len(indexes)), self.dtype)])
        self.changed_at = np.concatenate([self.changed_at[indexes], np.zeros(max(64, len(indexes)))])
        self.created_at = np.concatenate([self.created_at[indexes], np.zeros(max(64, len(indexes)))])
        self.keys = [self.keys[i] for i in indexes]
        self.rows = {key: i for i, key in enumerate(self.keys)}
        self.moves += 1


@dataclass(slots=True)
class _Known:
    """What a kernel's key was last time: mostly the same identities again, which need no hashing then."""

    ends: EdgeNames
    key: EdgeKey
    row: int
    moves: int


class _Recent(Generic[T]):
    """What was used lately, by key: the half that was not asked for between two turns goes."""

    def __init__(self) -> None:
        self._new: dict[bytes, T] = {}
        self._old: dict[bytes, T] = {}

    def get(self, key: bytes) -> T | None:
        found = self._new.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self._new[key] = found
        return found

    def put(self, key: bytes, value: T) -> None:
        self._new[key] = value

    def turn(self) -> None:
        self._old, self._new = self._new, {}

    def __len__(self) -> int:
        return len(self._old.keys() | self._new.keys())


class _Record(msgspec.Struct, array_like=True):
    """One journal entry: new keys, then rows as raw little-endian bytes and their deltas, packed (_pack_values)."""

    generation: int
    at: float
    edge_keys: list[list[Any]]
    edge_rows: bytes
    edge_values: bytes
    latency_keys: list[list[int]]
    latency_rows: bytes
    latency_values: bytes
    renames: list[tuple[int, int]] = []
    packed: bool = False
    """Earlier builds wrote whole rows."""
    operations: dict[int, str] = {}
    """Names announced since the last record."""


class Books:
    """The totals. One writer (the pipeline thread); readers get snapshots."""

    def __init__(self, journal: Path | None = None) -> None:
        self.edges = Table(EDGE_TOTALS)
        self.latencies = Table(LATENCY_TOTALS)
        self.operations: dict[int, str] = {}
        """Texts of operations, by id."""
        self._untold: dict[int, str] = {}
        self.closeups = Closeups()
        self.last_generation = -1
        self.damaged_records = 0
        self._known: _Recent[_Known] = _Recent()
        self._known_latencies: _Recent[tuple[EdgeKey, int, int]] = _Recent()
        self._path = journal
        self._file: int | None = None
        self._written = 0
        self._told = (0, 0)
        if journal is not None:
            self._replay(journal)
            self.compact()

    def retire(self, operations: Iterable[int]) -> None:
        """The rows of forgotten operations go together under RETIRED: totals stay, rows do not grow with what ever was."""
        gone = set(operations)
        old = [index for index, key in enumerate(self.latencies.keys) if key.operation in gone]
        for index in old:
            key = replace(self.latencies.keys[index], operation=RETIRED)
            at = float(self.latencies.changed_at[index])
            row = self.latencies.row(key, at)
            self.latencies.add(np.array([row]), self.latencies.values[index : index + 1].copy(), at)
        if old:
            kept = np.ones(len(self.latencies), bool)
            kept[old] = False
            self.latencies.keep(kept)
        for identifier in gone:
            self.operations.pop(identifier, None)
        self.compact()

    def learn(self, operations: dict[int, str]) -> None:
        """Names that the kernel announced; written to the journal with the next generation."""
        if operations:
            self.operations.update(operations)
            self._untold.update(operations)

    # -- booking -------------------------------------------------------------------------------------------------

    def book(self, generation: Generation, resolver: Resolver, at: float) -> None:
        """Attributes and adds a generation, and writes it to the journal. Twice is the same as once."""
        if generation.number <= self.last_generation:
            return
        if generation.number % KNOWN_GENERATIONS == 0:
            self._known.turn()
            self._known_latencies.turn()
        asked: dict[bytes, _Known] = {}
        edge_rows = self._edge_rows(generation.edge_keys, generation.edge_values, resolver, at, asked)
        latency_rows, their_edges = self._latency_rows(generation.latency_keys, resolver, at, asked)
        indexes, carried = generation.carried()
        edge_rows = np.concatenate([edge_rows, their_edges[indexes]])
        edge_values = np.concatenate([generation.edge_values, carried])
        latency_values = np.zeros(len(latency_rows), LATENCY_TOTALS)
        for name in LATENCY_TOTALS.names or ():
            latency_values[name] = generation.latency_values[name]
        self.edges.add(edge_rows, edge_values, at)
        self.latencies.add(latency_rows, latency_values, at)
        self.last_generation = generation.number
        self.closeups.book(generation, asked, self.operations, at)
        renames = self._resolve_pending(resolver, at)
        self._append(generation.number, at, edge_rows, edge_values, latency_rows, latency_values, renames)

    def _edge_rows(
        self, keys: np.ndarray, values: np.ndarray, resolver: Resolver, at: float, asked: dict[bytes, _Known]
    ) -> np.ndarray:
        weights = (values["opened"] + values["attempts"] + values["adopted"]).tolist() if len(keys) else []
        return np.fromiter(
            (
                self._edge(raw, resolver, at, weight, asked).row
                for raw, weight in zip(layout.rows_of(keys), weights, strict=True)
            ),
            np.uint32,
            len(keys),
        )

    def _latency_rows(
        self, keys: np.ndarray, resolver: Resolver, at: float, asked: dict[bytes, _Known]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(rows of the latencies, rows of their edges)."""
        rows, edges = np.zeros(len(keys), np.uint32), np.zeros(len(keys), np.uint32)
        details = zip(*(keys[name].tolist() for name in _DETAILS), strict=True)
        for index, (key, detail) in enumerate(zip(layout.rows_of(keys), details, strict=True)):
            edge = self._edge(key[: layout.EDGE_KEY.itemsize], resolver, at, 0, asked)
            edges[index] = edge.row  # the journal names edges by their row
            known = self._known_latencies.get(key)
            if known is None or known[0] is not edge.key or known[2] != self.latencies.moves:
                row = self.latencies.row(LatencyKey(edge.key, *detail), at)
                known = (edge.key, row, self.latencies.moves)
                self._known_latencies.put(key, known)
            rows[index] = known[1]
        return rows, edges

    def _edge(self, raw: bytes, resolver: Resolver, at: float, weight: int, asked: dict[bytes, _Known]) -> _Known:
        """`raw`: a struct edge_key. `asked`: those of this generation, which are asked for once."""
        found = asked.get(raw)
        if found is not None:
            return found
        role, port, ends = _ends(raw, resolver, at, weight)
        known = self._known.get(raw)
        if known is None or not _same(known.ends, ends):
            key = _edge_key(role, port, ends)
            known = _Known(ends, key, self.edges.row(key, at), self.edges.moves)
            self._known.put(raw, known)
        elif known.moves != self.edges.moves:
            known.row, known.moves = self.edges.row(known.key, at), self.edges.moves
        asked[raw] = known
        return known

    def by_name(
        self, counts: dict[tuple[bytes, int], int], resolver: Resolver, at: float
    ) -> dict[tuple[EdgeKey, int], int]:
        """Counts by (struct edge_key, operation), by the names of their edges."""
        found: dict[tuple[EdgeKey, int], int] = {}
        for (raw, operation), count in counts.items():
            role, port, ends = _ends(raw, resolver, at, 0)
            key = _edge_key(role, port, ends)
            found[key, operation] = found.get((key, operation), 0) + count
        return found

    # -- pods that are named late --------------------------------------------------------------------------------

    def _resolve_pending(self, resolver: Resolver, at: float) -> list[tuple[int, int]]:
        """Moves what was booked on a pod nobody knew yet to its name, once known; else, in time, to `unknown`."""
        moved = []
        for index, key in enumerate(list(self.edges.keys)):
            if key.local.reason != PENDING and key.remote.reason != PENDING:
                continue
            waited = at - float(self.edges.created_at[index])
            settled = EdgeKey(
                key.role,
                _settle(key.local, resolver, waited),
                _settle(key.remote, resolver, waited),
                key.service,
                key.port,
            )
            if settled != key:
                moved.append((index, self.edges.row(settled, at)))
        if moved:
            self._rename(moved, at)
        return moved

    def _rename(self, moved: list[tuple[int, int]], at: float) -> None:
        targets = {self.edges.keys[old]: self.edges.keys[new] for old, new in moved}
        for old, new in moved:
            self.edges.add(np.array([new]), self.edges.values[old : old + 1], at)
        for index, key in enumerate(list(self.latencies.keys)):
            if key.edge in targets:
                settled = replace(key, edge=targets[key.edge])
                new = self.latencies.row(settled, at)
                self.latencies.add(np.array([new]), self.latencies.values[index : index + 1].copy(), at)
        edge_gone = {old for old, _ in moved}
        self.edges.keep(np.array([i not in edge_gone for i in range(len(self.edges))], bool))
        self.latencies.keep(np.array([key.edge not in targets for key in self.latencies.keys], bool))

    # -- the journal ---------------------------------------------------------------------------------------------

    def _append(
        self,
        generation: int,
        at: float,
        edge_rows: np.ndarray,
        edge_values: np.ndarray,
        latency_rows: np.ndarray,
        latency_values: np.ndarray,
        renames: list[tuple[int, int]],
    ) -> None:
        if self._path is None:
            return
        if renames or self._written > COMPACT_BYTES:
            self.compact()
            return
        told_edges, told_latencies = self._told
        record = _Record(
            generation,
            at,
            [_pack_edge(key) for key in self.edges.keys[told_edges:]],
            edge_rows.tobytes(),
            _pack_values(edge_values),
            [_pack_latency(key, self.edges.rows) for key in self.latencies.keys[told_latencies:]],
            latency_rows.tobytes(),
            _pack_values(latency_values),
            packed=True,
            operations=self._untold,
        )
        self._untold = {}
        self._told = (len(self.edges), len(self.latencies))
        assert self._file is not None
        self._written += os.write(self._file, _frame(record))

    def compact(self) -> None:
        """Rewrites the journal as one record of everything, atomically."""
        if self._path is None:
            return
        for key in self.latencies.keys:
            self.edges.row(key.edge, 0.0)
        record = _Record(
            self.last_generation,
            0.0,
            [_pack_edge(key) for key in self.edges.keys],
            np.arange(len(self.edges), dtype=np.uint32).tobytes(),
            _pack_values(self.edges.values[: len(self.edges)]),
            [_pack_latency(key, self.edges.rows) for key in self.latencies.keys],
            np.arange(len(self.latencies), dtype=np.uint32).tobytes(),
            _pack_values(self.latencies.values[: len(self.latencies)]),
            packed=True,
            operations=self.operations,
        )
        self._untold = {}
        self._told = (len(self.edges), len(self.latencies))
        scratch = self._path.with_suffix(".new")
        scratch.write_bytes(_frame(record))
        scratch.rename(self._path)
        if self._file is not None:
            os.close(self._file)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._written = 0

    def _replay(self, path: Path) -> None:
        try:
            raw = path.read_bytes()
        except OSError:
            return
        position = 0
        decoder = msgspec.msgpack.Decoder(_Record)
        while position + 8 <= len(raw):
            length = int.from_bytes(raw[position : position + 4], "little")
            checksum = int.from_bytes(raw[position + 4 : position + 8], "little")
            body = raw[position + 8 : position + 8 + length]
            if len(body) < length or zlib.crc32(body) != checksum:
                self.damaged_records += 1
                break  # the write that the kill interrupted: its generation is still in the kernel
            try:
                self._apply(decoder.decode(body))
            except (msgspec.MsgspecError, ValueError, IndexError):
                self.damaged_records += 1
                break
            position += 8 + length

    def _apply(self, record: _Record) -> None:
        for packed in record.edge_keys:
            self.edges.row(_unpack_edge(packed), record.at)
        self.operations.update(record.operations)
        for edge, *details in record.latency_keys:
            self.latencies.row(LatencyKey(self.edges.keys[edge], *details), record.at)
        for table, rows, values in (
            (self.edges, record.edge_rows, record.edge_values),
            (self.latencies, record.latency_rows, record.latency_values),
        ):
            indexes = np.frombuffer(rows, np.uint32)
            if record.packed:
                table.add(indexes, _unpack_values(values, len(indexes), table.dtype), record.at)
            else:
                table.add(indexes, np.frombuffer(values, table.dtype), record.at)
        self.last_generation = record.generation

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _same(one: EdgeNames, other: EdgeNames) -> bool:
    """Mostly the same objects, which is quick to see."""
    return (
        (one.local is other.local or one.local == other.local)
        and (one.remote is other.remote or one.remote == other.remote)
        and one.service == other.service
    )


def _ends(raw: bytes, resolver: Resolver, at: float, weight: int) -> tuple[int, int, EdgeNames]:
    """(role, port, names) of a struct edge_key."""
    cgroup_id, peer_cgroup_id, remote, port, role = _EDGE_KEY.unpack_from(raw)
    if role == layout.ROLE_OVERFLOW:
        return role, port, _OVERFLOW_ENDS
    return role, port, resolver.edge(cgroup_id, peer_cgroup_id, remote, port, role, at, weight)


def _edge_key(role: int, port: int, ends: EdgeNames) -> EdgeKey:
    return EdgeKey(role, metric_identity(ends.local), metric_identity(ends.remote), ends.service, port)


def _pack_values(values: np.ndarray) -> bytes:
    """Rows of u64 fields, most of which are zero: the number of the others, their indexes (u32), themselves (u64)."""
    flat = np.ascontiguousarray(values).view("<u8").ravel()
    indexes = np.flatnonzero(flat)
    return len(indexes).to_bytes(4, "little") + indexes.astype("<u4").tobytes() + flat[indexes].tobytes()


def _unpack_values(packed: bytes, rows: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Raises ValueError or IndexError when it is no such thing."""
    count = int.from_bytes(packed[:4], "little")
    values = np.zeros(rows, dtype)
    values.view("<u8").ravel()[np.frombuffer(packed, "<u4", count, 4)] = np.frombuffer(
        packed, "<u8", count, 4 + 4 * count
    )
    return values


def _settle(identity: Identity, resolver: Resolver, waited: float) -> Identity:
    if identity.reason != PENDING:
        return identity
    known = resolver.index.pod(identity.uid, identity.container) if resolver.index else None
    if known:
        return metric_identity(known)
    if waited < HOLD_S:
        return identity
    return Identity(
        Kind.UNKNOWN, "unknown", workload="unknown", service_name="unknown", cluster=identity.cluster,
        reason="pod never seen",
    )  # fmt: skip


def _pack_identity(identity: Identity) -> list[Any]:
    return [getattr(identity, name) for name in Identity.__slots__]


def _unpack_identity(values: list[Any]) -> Identity:
    fields = dict(zip(Identity.__slots__, values, strict=True))
    for name in ("labels", "metric_labels"):
        fields[name] = tuple((k, v) for k, v in fields[name])
    return Identity(**{**fields, "kind": Kind(fields["kind"]), "provenance": Provenance(fields["provenance"])})


def _pack_edge(key: EdgeKey) -> list[Any]:
    service = [key.service.name, key.service.namespace] if key.service else []
    return [key.role, _pack_identity(key.local), _pack_identity(key.remote), service, key.port]


def _unpack_edge(values: list[Any]) -> EdgeKey:
    role, local, remote, service, port = values
    return EdgeKey(
        role, _unpack_identity(local), _unpack_identity(remote), ServiceName(*service) if service else None, port
    )


def _pack_latency(key: LatencyKey, edges: dict[EdgeKey, int]) -> list[int]:
    return [edges[key.edge], key.protocol, key.method, key.status, key.operation]


def _frame(record: _Record) -> bytes:
    body = msgspec.msgpack.encode(record)
    return len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
