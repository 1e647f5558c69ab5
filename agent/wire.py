"""DNS messages (RFC 1035) and TLS ClientHellos (RFC 8446) from bytes off the network. Pure, bounded, never raises.

Both are walked just as far as names and addresses: a message that lies about its lengths gives what came whole before.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass

MAX_STREAMS = 1024
MAX_STREAM_BYTES = 16384
MAX_ANSWERS = 64
NXDOMAIN = 3
_TYPES = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 65: "HTTPS"}


@dataclass(frozen=True, slots=True)
class DnsMessage:
    """A DNS response: `addresses` are (address, TTL in seconds), reached through the CNAME chain `names`."""

    question: str
    type: str
    rcode: int
    addresses: tuple[tuple[str, float], ...]
    names: tuple[str, ...]


def _name(data: bytes, at: int) -> tuple[str, int]:
    """(name, offset behind it); follows compression pointers backwards only, so it ends. Raises ValueError, IndexError."""
    labels: list[str] = []
    behind = -1
    total = 0
    while True:
        length = data[at]
        if length & 0xC0 == 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            if behind < 0:
                behind = at + 2
            if target >= at:
                raise ValueError("forward pointer")
            at = target
            continue
        if length & 0xC0:
            raise ValueError("label type")
        if length == 0:
            return ".".join(labels), behind if behind >= 0 else at + 1
        total += length + 1
        if total > 254:
            raise ValueError("name too long")
        labels.append(data[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length


def is_search_noise(question: str, rcode: int) -> bool:
    """Did a resolver only try its search list (resolv.conf(5): `search`, `ndots`)? A whole name with a cluster's suffix behind it.

    `api.example.com.shop.svc.cluster.local` does not exist because nobody meant it: no failure of anybody's.
    """
    if rcode != NXDOMAIN:
        return False
    before, inside, _ = question.lower().rstrip(".").partition(".svc.")
    if inside:
        return before.count(".") >= 2  # service.namespace has one dot
    return question.lower().rstrip(".").endswith((".cluster.local", ".internal", ".local")) and question.count(".") >= 3


def dns_message(data: bytes) -> DnsMessage | None:
    """A DNS response, or None for anything else. A cut one gives what came whole."""
    try:
        _, flags, questions, answers, _, _ = struct.unpack_from(">6H", data)
        if not flags & 0x8000 or questions != 1:
            return None
        question, at = _name(data, 12)
        (kind,) = struct.unpack_from(">H", data, at)
    except (struct.error, ValueError, IndexError):
        return None
    at += 4
    aliases = {question.lower()}
    addresses: list[tuple[str, float]] = []
    names: list[str] = []
    chain_ttl = float("inf")
    for _ in range(min(answers, MAX_ANSWERS)):
        try:
            owner, at = _name(data, at)
            record, _, ttl, length = struct.unpack_from(">HHIH", data, at)
            at += 10
            if at + length > len(data):
                break
            if owner.lower() in aliases:
                if record == 5:
                    target, _ = _name(data, at)
                    aliases.add(target.lower())
                    names.append(target)
                    chain_ttl = min(chain_ttl, ttl)
                elif record == 1 and length == 4:
                    addresses.append((".".join(str(byte) for byte in data[at : at + 4]), min(ttl, chain_ttl)))
                elif record == 28 and length == 16:
                    text = ":".join(f"{data[i] << 8 | data[i + 1]:x}" for i in range(at, at + 16, 2))
                    addresses.append((text, min(ttl, chain_ttl)))
            at += length
        except (struct.error, ValueError, IndexError):
            break
    return DnsMessage(question, _TYPES.get(kind, str(kind)), flags & 15, tuple(addresses), tuple(names))


def server_name(data: bytes) -> str | None:
    """The SNI host name of a ClientHello; "" when it has none, None while bytes are missing or it is no ClientHello."""
    handshake = bytearray()
    at = 0
    while at + 5 <= len(data):  # the handshake message may be spread over records
        kind, _, length = struct.unpack_from(">BHH", data, at)
        if kind != 22:
            return None if not handshake else _hello_name(bytes(handshake))
        handshake += data[at + 5 : at + 5 + length]
        at += 5 + length
    return _hello_name(bytes(handshake))


def _hello_name(hello: bytes) -> str | None:
    try:
        if hello[0] != 1:
            return None
        at = 4 + 2 + 32
        at += 1 + hello[at]
        at += 2 + struct.unpack_from(">H", hello, at)[0]
        at += 1 + hello[at]
        if at >= 4 + int.from_bytes(hello[1:4], "big"):
            return ""
        end = at + 2 + struct.unpack_from(">H", hello, at)[0]
        at += 2
        while at + 4 <= end:
            kind, length = struct.unpack_from(">HH", hello, at)
            at += 4
            if kind == 0:
                (name_length,) = struct.unpack_from(">H", hello, at + 3)
                name = hello[at + 5 : at + 5 + name_length]
                if len(name) < name_length or name_length + 5 > length:
                    return None
                return name.decode("ascii", "replace")
            at += length
        return "" if len(hello) >= end else None
    except (struct.error, IndexError):
        return None


class _Streams:
    """Pieces of a message by socket cookie, until it is whole. Bounded: the oldest go first."""

    def __init__(self) -> None:
        self._pieces: OrderedDict[int, dict[int, bytes]] = OrderedDict()

    def gather(self, cookie: int, sequence: int, piece: bytes) -> bytes:
        """The bytes so far, in order from the lowest sequence number, up to the first gap."""
        pieces = self._pieces.setdefault(cookie, {})
        self._pieces.move_to_end(cookie)
        pieces[sequence] = piece
        while len(self._pieces) > MAX_STREAMS:
            self._pieces.popitem(last=False)
        first = min(pieces, key=lambda s: (s - sequence + (1 << 31)) & 0xFFFFFFFF)
        joined = bytearray(pieces[first])
        following = (first + len(pieces[first])) & 0xFFFFFFFF
        while following in pieces and pieces[following] and len(joined) < MAX_STREAM_BYTES:
            joined += pieces[following]
            following = (following + len(pieces[following])) & 0xFFFFFFFF
        return bytes(joined)

    def forget(self, cookie: int) -> None:
        self._pieces.pop(cookie, None)


class HelloStreams(_Streams):
    """Split ClientHellos."""

    def feed(self, cookie: int, sequence: int, piece: bytes) -> str | None:
        """The server name, once known."""
        found = server_name(self.gather(cookie, sequence, piece))
        if found is not None:
            self.forget(cookie)
        return found or None


class DnsStreams(_Streams):
    """DNS over TCP: messages behind two bytes of length."""

    def feed(self, cookie: int, sequence: int, piece: bytes) -> DnsMessage | None:
        """The response, once whole."""
        data = self.gather(cookie, sequence, piece)
        if len(data) < 2:
            return None
        length = struct.unpack_from(">H", data)[0]
        if len(data) < 2 + length:
            return None
        self.forget(cookie)
        return dns_message(data[2 : 2 + length])
