"""HPACK's tables and the words of commands as C, for the host: what the loader puts into the maps, and the code itself, to encode with."""

from __future__ import annotations

import struct
from pathlib import Path

from sidelight.agent import hpack, vocabulary


def write_tables(directory: Path) -> None:
    """hpack_tables.inc and words.inc."""
    entries = []
    for key, value in vocabulary.records():
        *text, protocol, kind = struct.unpack("<QQQII", key)
        words = ", ".join(f"{word}ULL" for word in text)
        entries.append(f"{{{{{{{words}}}, {protocol}, {kind}}}, {struct.unpack('<I', value)[0]}}}")
    (directory / "words.inc").write_text(
        f"static struct {{ struct word_key key; u32 value; }} word_entries[] = {{{', '.join(entries)}}};\n"
    )
    words = struct.unpack("<4160I", hpack.tables())
    codes = hpack.huffman_codes()
    (directory / "hpack_tables.inc").write_text(
        f"static struct hpack_tables hpack_tables_value = {{{{{','.join(map(str, words[:4096]))}}}, {{{','.join(map(str, words[4096:]))}}}}};\n"
        f"static const u32 huffman_codes[] __attribute__((unused)) = {{{','.join(str(code) for code, _ in codes)}}};\n"
        f"static const u8 huffman_bits[] __attribute__((unused)) = {{{','.join(str(bits) for _, bits in codes)}}};\n"
    )
