"""The words that the programs know by number."""

from __future__ import annotations

import struct

import pytest

from sidelight.agent import layout, vocabulary


def test_every_word_fits_its_key_and_stands_once() -> None:
    records = list(vocabulary.records())
    assert len({key for key, _ in records}) == len(records)
    (entries,) = (
        int(line.rsplit(",", 1)[1].strip(" );"))
        for line in layout.source("maps.h").splitlines()
        if '"hash", struct word_key' in line
    )
    assert len(records) <= entries
    for key, value in records:
        text, protocol, kind = struct.unpack("<24sII", key)
        assert protocol and kind in (0, 1, 2) and 0 < struct.unpack("<I", value)[0] < 1 << 16
        if kind != layout.CONSTANTS["WORDS_CODES"]:
            word = text.rstrip(b"\0").decode()
            assert word == word.upper() and word.isascii() and 0 < len(word) <= 24


@pytest.mark.parametrize("words", [vocabulary.REDIS_COMMANDS, vocabulary.MEMCACHED_COMMANDS, vocabulary.SQL_COMMANDS])
def test_a_number_is_a_byte_and_one_words(words: tuple[str, ...]) -> None:
    assert words[0] == vocabulary.OTHER and len(set(words)) == len(words) <= 256


def test_the_verbs_that_programs_name_stand_where_they_think() -> None:
    verbs = {name.removeprefix("SQL_"): number for name, number in layout.parse_constants(layout.source("l7/sql.h")).items() if name in (
        "SQL_CANCEL", "SQL_CONNECT", "SQL_FETCH", "SQL_EXECUTE", "SQL_ROLLBACK")}  # fmt: skip
    assert {name: vocabulary.SQL_COMMANDS.index(name) for name in verbs} == verbs and len(verbs) == 5
    assert (
        vocabulary.REDIS_STATUSES[layout.parse_constants(layout.source("l7/redis.h"))["REDIS_DISCARDED"]] == "DISCARDED"
    )
    assert (
        vocabulary.MEMCACHED_STATUSES[layout.parse_constants(layout.source("l7/memcached.h"))["MEMCACHED_MISS"]]
        == "MISS"
    )
    assert (
        vocabulary.POSTGRESQL_STATUSES[layout.parse_constants(layout.source("l7/postgresql.h"))["POSTGRESQL_ABORTED"]]
        == "ABORTED"
    )
