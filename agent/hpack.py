"""The tables of HPACK (RFC 7541, appendices A and B) as the programs want them (struct hpack_tables). Pure."""

from __future__ import annotations

import struct

from sidelight.agent import layout

_LENGTHS = """
13 23 28 28 28 28 28 28 28 24 30 28 28 30 28 28 28 28 28 28 28 28 30 28 28 28 28 28 28 28 28 28 6 10 10 12 13
6 8 11 10 10 8 11 8 6 6 6 5 5 5 6 6 6 6 6 6 6 7 8 15 6 12 10 13 6 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7
8 7 8 13 19 13 14 6 15 5 6 5 6 5 6 6 6 5 7 7 6 6 6 5 6 7 6 5 5 6 7 7 7 7 7 15 11 14 13 28 20 22 20 20 22 22 22
23 22 23 23 23 23 23 24 23 24 24 22 23 24 23 23 23 23 21 22 23 22 23 23 24 22 21 20 22 22 23 23 21 23 22 22 24
21 22 23 23 21 21 22 21 23 22 23 23 20 22 22 22 23 22 22 23 26 26 20 19 22 23 22 25 26 26 26 27 27 26 24 25 19
21 26 27 27 26 27 24 21 21 26 26 28 27 27 27 20 24 20 21 22 21 21 23 22 22 25 25 24 24 26 23 26 27 26 26 27 27
27 27 27 28 27 27 27 27 27 26 30
"""
"""Bits of each octet's code, and of the end's. The code is canonical: lengths say all."""

_PSEUDO = (
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"), (":scheme", "http"),
    (":scheme", "https"), *((":status", status) for status in ("200", "204", "206", "304", "400", "404", "500")),
)  # fmt: skip
_NAMES = """
accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow
authorization cache-control content-disposition content-encoding content-language content-length
content-location content-range content-type cookie date etag expect expires from host if-match
if-modified-since if-none-match if-range if-unmodified-since last-modified link location max-forwards
proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie
strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""
STATIC_TABLE: tuple[tuple[str, str], ...] = (*_PSEUDO, *((name, "") for name in _NAMES.split()))
"""Names, and of the pseudo header fields the values; those of the others say nothing to us."""

_HEADERS = layout.parse_constants(layout.source("l7/hpack.h"))
_KINDS = {
    ":authority": _HEADERS["HEADER_AUTHORITY"],
    ":method": _HEADERS["HEADER_METHOD"],
    ":path": _HEADERS["HEADER_PATH"],
    ":status": _HEADERS["HEADER_STATUS"],
    "content-type": _HEADERS["HEADER_CONTENT_TYPE"],
}


def huffman_codes() -> list[tuple[int, int]]:
    """(code, bits) of each of the 256 octets, and of the end."""
    lengths = [int(length) for length in _LENGTHS.split()]
    found = [(0, 0)] * len(lengths)
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - before
        found[symbol] = (code, length)
        code, before = code + 1, length
    return found


def huffman_steps() -> list[int]:
    """By state << 4 | four bits: the next state, the octet << 8, and whether it ended within them << 16.

    A state is an inner node of the code's tree, 0 its root. No code is shorter than five bits: four never end two. The end's
    code leads back to the root; no encoder sends all of it (5.2).
    """
    nodes: list[list[int]] = [[-1, -1]]
    leaves: dict[tuple[int, int], int] = {}
    for symbol, (code, length) in enumerate(huffman_codes()):
        node = 0
        for bit in range(length - 1, 0, -1):
            way = code >> bit & 1
            if nodes[node][way] < 0:
                nodes[node][way] = len(nodes)
                nodes.append([-1, -1])
            node = nodes[node][way]
        leaves[node, code & 1] = symbol
    steps = []
    for state in range(len(nodes)):
        for bits in range(16):
            node, said = state, 0
            for bit in (3, 2, 1, 0):
                way = bits >> bit & 1
                if (node, way) in leaves:
                    symbol = leaves[node, way]
                    said = 1 << 16 | symbol << 8 if symbol < 256 else said
                    node = 0
                else:
                    node = nodes[node][way]
            steps.append(said | node)
    return steps


def static_entries() -> list[int]:
    """By index: enum header, the name's length << 8, the value << 16: enum method, a status, a path's length."""
    found = [0]
    for name, text in STATIC_TABLE:
        value = layout.METHODS.index(text) if name == ":method" else int(text) if name == ":status" else len(text)
        found.append(_KINDS.get(name, 0) | len(name) << 8 | (value if name in _KINDS else 0) << 16)
    return found


def tables() -> bytes:
    """struct hpack_tables."""
    return struct.pack("<4096I64I", *huffman_steps(), *static_entries(), 0, 0)
