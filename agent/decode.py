"""Ring-buffer records -> columns. Pure; hostile bytes end as counted drops or as escaped text.

A batch keeps the fixed parts of its events as one numpy array (layout.EVENT) and the strings of requests beside it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from sidelight.agent import layout
from sidelight.agent.protocols import PROTOCOLS
from sidelight.agent.sql import masked
from sidelight.identity.names import clean_host

OPEN = layout.CONSTANTS["EVENT_OPEN"]
CLOSE = layout.CONSTANTS["EVENT_CLOSE"]
FAIL = layout.CONSTANTS["EVENT_FAIL"]
REQUEST = layout.CONSTANTS["EVENT_REQUEST"]
DNS = layout.CONSTANTS["EVENT_DNS"]
TLS = layout.CONSTANTS["EVENT_TLS"]
OPERATION = layout.CONSTANTS["EVENT_OPERATION"]

FLAG_ADOPTED = layout.CONSTANTS["EVENT_ADOPTED"]
FLAG_UNANSWERED = layout.CONSTANTS["EVENT_UNANSWERED"]
FLAG_SLOW = layout.CONSTANTS["EVENT_SLOW"]
FLAG_TRUNCATED = layout.CONSTANTS["EVENT_TEXT_TRUNCATED"]
FLAG_TRACE_SAMPLED = layout.CONSTANTS["EVENT_TRACE_SAMPLED"]
FLAG_INBOUND = layout.CONSTANTS["EVENT_INBOUND"]

_SIZES = {
    OPEN: layout.EVENT.itemsize,
    CLOSE: layout.EVENT.itemsize,
    FAIL: layout.EVENT.itemsize,
    REQUEST: layout.REQUEST_EVENT.itemsize,
    DNS: layout.PAYLOAD_EVENT.itemsize,
    TLS: layout.PAYLOAD_EVENT.itemsize,
    OPERATION: layout.OPERATION_EVENT.itemsize,
}
_TYPE_AT = layout.EVENT.fields["type"][1]  # type: ignore[index]
_TEXT = layout.REQUEST_EVENT.fields["text"][1]  # type: ignore[index]
_HOST = layout.REQUEST_EVENT.fields["host"][1]  # type: ignore[index]
_TRACE = layout.REQUEST_EVENT.fields["traceparent"][1]  # type: ignore[index]
_OPERATION_AT = layout.EVENT.fields["operation"][1]  # type: ignore[index]
_OPERATION_TEXT = layout.OPERATION_EVENT.fields["text"][1]  # type: ignore[index]
_PAYLOAD = layout.PAYLOAD_EVENT.fields["payload"][1]  # type: ignore[index]
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
SAID_BEFORE = 1024
"""Request lines and hosts that are remembered: clients say the same again and again. At most 1 MB."""
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class RequestText:
    """What is known of a request's head. `path` has no query string; all of it is printable ASCII."""

    method: str = ""
    path: str = ""
    version: str = ""
    host: str = ""
    traceparent: str = ""
    query: bool = False
    truncated: bool = False
    statement: str = ""
    """Of SQL, masked: agent/sql.py."""


NO_TEXT = RequestText()


@dataclass(slots=True)
class EventBatch:
    """Events in the order of the ring. `texts` and `payloads` are by index, for the events that have them."""

    events: np.ndarray
    texts: dict[int, RequestText] = field(default_factory=dict)
    payloads: dict[int, bytes] = field(default_factory=dict)
    operations: dict[int, str] = field(default_factory=dict)
    """Texts that the kernel announced, by id; escaped, no flows."""
    announced: int = 0
    """Records that announced them."""
    malformed: int = 0


def decode(records: list[bytes]) -> EventBatch:
    """Columns of a list of records; a record of an unknown type or a wrong size is counted, not kept."""
    fixed: list[bytes] = []
    texts: dict[int, RequestText] = {}
    payloads: dict[int, bytes] = {}
    operations: dict[int, str] = {}
    announced = malformed = 0
    size = layout.EVENT.itemsize
    for record in records:
        kind = record[_TYPE_AT] if len(record) >= size else 0
        if _SIZES.get(kind) != len(record) or (kind == REQUEST and record[_TYPE_AT + 1] not in PROTOCOLS):
            malformed += 1
            continue
        if kind == OPERATION:
            length = min(
                int.from_bytes(record[_TYPE_AT + 4 : _TYPE_AT + 6], "little"), layout.CONSTANTS["OPERATION_BYTES"]
            )
            identifier = int.from_bytes(record[_OPERATION_AT : _OPERATION_AT + 4], "little")
            text = record[_OPERATION_TEXT : _OPERATION_TEXT + length].rstrip(b"\0")
            operations[identifier] = printable(text, length)
            announced += 1
            continue
        index = len(fixed)
        if kind == REQUEST:
            texts[index] = request_text(record)
        elif kind in (DNS, TLS):
            length = int.from_bytes(record[_TYPE_AT + 4 : _TYPE_AT + 6], "little")
            payloads[index] = record[_PAYLOAD : _PAYLOAD + min(length, layout.CONSTANTS["PAYLOAD_BYTES"])]
        fixed.append(record[:size])
    return EventBatch(np.frombuffer(b"".join(fixed), layout.EVENT), texts, payloads, operations, announced, malformed)


def request_text(record: bytes) -> RequestText:
    """The strings of a request event (struct request_event)."""
    length = int.from_bytes(record[_TYPE_AT + 4 : _TYPE_AT + 6], "little")
    flags = record[_TYPE_AT + 3]
    line = record[_TEXT : _TEXT + min(length, layout.CONSTANTS["TEXT_BYTES"])]
    trace = record[_TRACE : _TRACE + 55].decode("ascii", "replace")
    protocol = PROTOCOLS[record[_TYPE_AT + 1]]
    if protocol.system:
        return RequestText(statement=masked(line, protocol.quoted_names)) if line else NO_TEXT
    if protocol.version == "2":
        target, question, _ = line.partition(b"?")
        method, path, version, query = "", printable(target.partition(b"#")[0], 192), "HTTP/2", bool(question)
    else:
        method, path, version, query = split_request_line(line.split(b"\n", 1)[0])
    return RequestText(
        method,
        path,
        version,
        host_of(record[_HOST:_TRACE]),
        trace if _TRACEPARENT.match(trace) else "",
        query,
        bool(flags & FLAG_TRUNCATED),
    )


@lru_cache(SAID_BEFORE)
def host_of(field: bytes) -> str:
    """A Host header as kept by the kernel: a name where it is one, else what it says, printable."""
    host = field.split(b"\0")[0].split(b"\r")[0].strip()
    return clean_host(host.decode("ascii", "replace")) or printable(host, 64)


@lru_cache(SAID_BEFORE)
def split_request_line(line: bytes) -> tuple[str, str, str, bool]:
    """(method, path without query, HTTP version, whether there was a query) of a request line, whole or cut."""
    words = line.rstrip(b"\r\n").split(b" ")
    method = printable(words[0], 24)
    target = words[1] if len(words) > 1 else b""
    if b"://" in target[:16]:  # absolute form, to proxies
        target = b"/" + target.split(b"://", 1)[1].partition(b"/")[2]
    path, question, _ = target.partition(b"?")
    version = printable(words[2], 10) if len(words) > 2 and words[2].startswith(b"HTTP/") else ""
    return method, printable(path.partition(b"#")[0], 192), version, bool(question)


def printable(raw: bytes, limit: int) -> str:
    """Text that no terminal obeys: everything but visible ASCII is percent-encoded."""
    text = raw[:limit].decode("latin-1")
    return _UNPRINTABLE.sub(lambda match: f"%{ord(match[0]):02X}", text)


def clock_offset_ns() -> int:
    """What to add to CLOCK_MONOTONIC to get the time since the epoch, in ns; read anew for every batch."""
    return time.time_ns() - time.monotonic_ns()
