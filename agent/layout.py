"""The layouts shared with the kernel, read from their one source: bpf/types.h and bpf/counters.h.

The headers keep to a grammar small enough to be read here: ``struct name {``, one field a line. Nothing is written
twice, and tests/unit/agent/test_layout.py compares the result with the C compiler's.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from sidelight.agent.errors import DecodeError

_SCALARS = {"u8": "u1", "u16": "<u2", "u32": "<u4", "u64": "<u8"}
_STRUCT = re.compile(r"^struct (\w+) \{(.*?)^\};", re.M | re.S)
_FIELD = re.compile(r"^\s*(struct )?(\w+) (\w+)(?:\[(\d+)\])?;")
_ENUM = re.compile(r"^enum \w+ \{(.*?)\};", re.M | re.S)
_DEFINE = re.compile(r"^#define (\w+) (\d+)\b", re.M)
_COUNTER = re.compile(r'X\((\w+), (\w+), "([^"]*)"\)')


def source(name: str) -> str:
    """Text of a file of bpf/."""
    return files("sidelight.bpf").joinpath(name).read_text("utf-8")


def parse_structs(text: str) -> dict[str, np.dtype[np.void]]:
    """Numpy dtypes of the structs in a header. Raises DecodeError where the grammar is left."""
    found: dict[str, np.dtype[np.void]] = {}
    for name, body in _STRUCT.findall(text):
        fields: list[tuple[str, object]] = []
        for line in re.sub(r"/\*.*?\*/", "", body, flags=re.S).splitlines():
            if not line.strip():
                continue
            match = _FIELD.match(line)
            if not match:
                raise DecodeError(f"struct {name}: cannot read the field {line.strip()!r}")
            nested, kind, field, length = match.groups()
            base: object = found[kind] if nested else _SCALARS.get(kind)
            if base is None:
                raise DecodeError(f"struct {name}: unknown type {kind!r}")
            fields.append((field, (base, (int(length),))) if length else (field, base))
        dtype = np.dtype([(field, *base) if isinstance(base, tuple) else (field, base) for field, base in fields])
        found[name] = dtype
    return found


def parse_constants(text: str) -> dict[str, int]:
    """Values of the #defines and enumerators of a header, but of those that are counted from another header's."""
    plain = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    found = {name: int(value) for name, value in _DEFINE.findall(plain)}
    for body in _ENUM.findall(plain):
        following: int | None = 0
        for item in filter(None, (part.strip() for part in body.split(","))):
            name, _, value = (part.strip() for part in item.partition("="))
            if value:  # a name of another header is not known here, nor what is counted from it
                following = int(value, 0) if value[0].isdigit() else found.get(value)
            if following is not None:
                found[name] = following
                following += 1
    return found


def callbacks() -> tuple[str, ...]:
    """Functions that the programs name by a constant, in its order (bpf/turns.h)."""
    return tuple(name.removeprefix("CALLBACK_") for name in parse_constants(source("turns.h")))


@dataclass(frozen=True, slots=True)
class Counter:
    """One entry of bpf/counters.h; `kind` is SEEN, LOST or UNDECIDED."""

    name: str
    kind: str
    meaning: str


def rows_of(array: np.ndarray) -> list[bytes]:
    """The bytes of each element, of each row where there are several axes: keys to look up by."""
    raw = array.tobytes()
    size = len(raw) // max(1, len(array))
    return [raw[size * index : size * index + size] for index in range(len(array))]


@cache
def counters() -> tuple[Counter, ...]:
    """The kernel's counters, in the order of the map `counters`."""
    return tuple(Counter(*found) for found in _COUNTER.findall(source("counters.h")))


_TYPES = source("types.h")
_STRUCTS = parse_structs(_TYPES)
CONSTANTS = parse_constants(_TYPES)

EDGE_KEY = _STRUCTS["edge_key"]
EDGE_VALUE = _STRUCTS["edge_value"]
LATENCY_KEY = _STRUCTS["latency_key"]
LATENCY_VALUE = _STRUCTS["latency_value"]
EVENT = _STRUCTS["event"]
REQUEST_EVENT = _STRUCTS["request_event"]
PAYLOAD_EVENT = _STRUCTS["payload_event"]
OPERATION_EVENT = _STRUCTS["operation_event"]
OPERATION_VALUE = _STRUCTS["operation_value"]
SETTINGS = _STRUCTS["settings"]
HTTP2_STREAM = _STRUCTS["http2_stream"]
HTTP2_STREAM_KEY = _STRUCTS["http2_stream_key"]

ROLE_CLIENT = CONSTANTS["ROLE_CLIENT"]
ROLE_SERVER = CONSTANTS["ROLE_SERVER"]
ROLE_OVERFLOW = CONSTANTS["ROLE_OVERFLOW"]

METHODS = tuple(
    "_OTHER" if name == "METHOD_OTHER" else name.removeprefix("METHOD_")
    for name in CONSTANTS
    if name.startswith("METHOD_")
)
FAIL_REASONS = tuple(name.removeprefix("FAIL_").lower() for name in CONSTANTS if name.startswith("FAIL_"))
CLOSE_REASONS_NAMES = tuple(
    name.removeprefix("CLOSE_").lower() for name in CONSTANTS if name.startswith("CLOSE_") and name != "CLOSE_REASONS"
)

LATENCY_BUCKETS = CONSTANTS["LATENCY_BUCKETS"]
BUCKET_SCALE = 2
"""OpenTelemetry's exponential histogram scale: the base is 2^(2^-scale) = 2^(1/4)."""
BUCKET_OFFSET = 80
"""Bucket i's upper bound is 2^((i - BUCKET_OFFSET) / 4) seconds."""


def _exact_bound_ns(index: int) -> int:
    """floor(10^9 * 2^((index - 80) / 4)), in integers: the largest duration in ns within bucket `index`."""
    quarters = index - BUCKET_OFFSET
    # n <= 10^9 * 2^(q/4)  <=>  n^4 <= 10^36 * 2^q
    power = 10**36 << quarters if quarters >= 0 else 10**36 >> -quarters
    root = int(round(float(power) ** 0.25))  # noqa: RUF046
    while root**4 > power:
        root -= 1
    while (root + 1) ** 4 <= power:
        root += 1
    return root


BUCKET_BOUNDS_NS: tuple[int, ...] = tuple(_exact_bound_ns(i) for i in range(LATENCY_BUCKETS - 1))
"""Inclusive upper bounds of all buckets but the last, which has none."""

BUCKET_BOUNDS_S: tuple[float, ...] = tuple(2.0 ** ((i - BUCKET_OFFSET) / 4) for i in range(LATENCY_BUCKETS - 1))


def programs_text() -> str:
    """The programs as one text: BCC takes functions from the main file only, so includes of ours are put in place."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        lines = []
        for line in source(name).splitlines():
            match = re.match(r'#include "([\w./]+)"', line)
            if not match:
                lines.append(line)
            elif match[1] not in seen:
                seen.add(match[1])
                lines.append(expand(match[1]))
        return "\n".join(lines)

    return expand("sidelight.c")


def layout_hash() -> str:
    """Changes when maps of older programs can no longer be read, or when socket storage changes its meaning."""
    digest = hashlib.sha256()
    for name in ("types.h", "socket/connection.h", "order/segments.h", "l7/state.h", "maps.h"):
        digest.update(re.sub(r"/\*.*?\*/|\s+", " ", source(name), flags=re.S).encode())
    digest.update(",".join(counter.name for counter in counters()).encode())
    return digest.hexdigest()[:12]
