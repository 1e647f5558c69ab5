"""The tables of HPACK that the programs are given."""

from __future__ import annotations

import struct

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent import hpack, layout

STEPS = hpack.huffman_steps()


def decoded(data: bytes) -> bytes:
    """As the programs do: four bits at a time."""
    state, found = 0, bytearray()
    for octet in data:
        for bits in (octet >> 4, octet & 15):
            step = STEPS[state << 4 | bits]
            state = step & 0xFF
            if step >> 16 & 1:
                found.append(step >> 8 & 0xFF)
    return bytes(found)


@given(st.binary(max_size=200))
def test_what_another_encoder_says_is_read(text: bytes) -> None:
    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    assert decoded(encoder.encode(text) if text else b"") == text


def test_the_static_table_says_what_it_means_to_us() -> None:
    entries = hpack.static_entries()
    assert len(entries) == 62
    assert entries[2] >> 16 == layout.METHODS.index("GET") and entries[13] >> 16 == 404
    assert entries[5] >> 16 == len("/index.html") and entries[31] >> 8 & 0xFF == len("content-type")
    assert entries[58] & 0xFF == 0 and entries[58] >> 8 & 0xFF == len("user-agent")


def test_the_map_s_value_is_whole() -> None:
    assert len(hpack.tables()) == 4 * 4096 + 4 * 64
    assert struct.unpack_from("<I", hpack.tables(), 4 * 4096 + 8)[0] == hpack.static_entries()[2]
