"""How each protocol's statuses are named and judged."""

from __future__ import annotations

import grpc
import pytest

from sidelight.agent.protocols import (
    GRPC,
    GRPC_CODES,
    HTTP1,
    HTTP2,
    MEMCACHED,
    MYSQL,
    POSTGRESQL,
    PROTOCOLS,
    REDIS,
    STATUS_SILENT,
    STATUS_UNREAD,
    STORES,
    failed,
)


def test_grpc_s_codes_are_the_library_s() -> None:
    assert {code.name: code.value[0] for code in grpc.StatusCode} == {name: i for i, name in enumerate(GRPC_CODES)}


@pytest.mark.parametrize(
    ("status", "answer", "server", "client"),
    [
        (1, "OK", "", ""),
        (2, "CANCELLED", "", "CANCELLED"),
        (5, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        (6, "NOT_FOUND", "", "NOT_FOUND"),
        (15, "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"),
        (0, "", "no_response", "no_response"),
        (STATUS_UNREAD, "", "", ""),
        (99, "98", "", "98"),
    ],
)
def test_grpc(status: int, answer: str, server: str, client: str) -> None:
    assert GRPC.answer(status) == answer
    assert (GRPC.error_type(status, client=False), GRPC.error_type(status, client=True)) == (server, client)
    assert failed(GRPC.number, status) == bool(server)
    known = status not in (0, STATUS_UNREAD)
    assert GRPC.http_status(status) == (200 if known else 0)
    assert GRPC.grpc_code(status) == (str(status - 1) if known else "")


def test_http() -> None:
    for found in (HTTP1, HTTP2):
        assert found.answer(404) == "404" and found.answer(0) == "" and found.answer(STATUS_UNREAD) == ""
        assert found.http_status(503) == 503 and found.http_status(STATUS_UNREAD) == 0 and found.grpc_code(200) == ""
        assert found.error_type(404, client=True) == "404" and found.error_type(404, client=False) == ""
        assert found.method(200) == "_OTHER"


def test_numbers_and_programs_are_distinct() -> None:
    assert len({protocol.program for protocol in PROTOCOLS.values() if protocol.program}) == len(PROTOCOLS) - 1, (
        "gRPC is HTTP/2's"
    )
    assert {number: protocol.number for number, protocol in PROTOCOLS.items()} == {n: n for n in PROTOCOLS}


def test_data_stores() -> None:
    for store in STORES.values():
        assert store.answer(0) == store.answer(1) == store.answer(STATUS_SILENT) == ""
        assert store.error_type(0, client=True) == "no_response" and store.error_type(STATUS_SILENT, client=True) == ""
        assert (
            store.http_status(1) == 0 and store.method(255) == store.method(0) == "_OTHER" and len(store.methods) <= 256
        )
        assert store.answer(2) == store.error_type(2, client=False) == "_OTHER", "an error without a name"
    assert REDIS.error_type(REDIS.statuses.index("WRONGTYPE"), client=True) == "WRONGTYPE"
    assert REDIS.error_type(REDIS.statuses.index("DISCARDED"), client=True) == ""
    assert MEMCACHED.answer(3) == "MISS" and not MEMCACHED.fails("MISS") and MEMCACHED.fails("SERVER_ERROR")
    assert POSTGRESQL.error_type(POSTGRESQL.statuses.index("42P01"), client=False) == "42P01" and not POSTGRESQL.fails(
        "ABORTED"
    )
    assert MYSQL.answer(1062) == MYSQL.error_type(1062, client=True) == "1062"
