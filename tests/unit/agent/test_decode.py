"""Decoders of what the network wrote: by property, never raising, never letting a terminal obey."""

from __future__ import annotations

import contextlib

import dnslib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.agent import decode, layout, wire
from sidelight.agent.protocols import GRPC, HTTP1


@given(st.lists(st.binary(max_size=1500), max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_records_decode_or_are_counted(records: list[bytes]) -> None:
    batch = decode.decode(records)
    assert len(batch.events) + batch.announced + batch.malformed == len(records)


@given(st.binary(min_size=layout.REQUEST_EVENT.itemsize, max_size=layout.REQUEST_EVENT.itemsize))
@settings(max_examples=500, deadline=None)
def test_request_text_is_printable(raw: bytes) -> None:
    record = bytearray(raw)
    record[layout.EVENT.fields["type"][1]] = decode.REQUEST  # type: ignore[index]
    record[layout.EVENT.fields["reason"][1]] = HTTP1.number  # type: ignore[index]
    batch = decode.decode([bytes(record)])
    text = batch.texts[0]
    for value in (text.method, text.path, text.version, text.host, text.traceparent):
        assert value.isascii() and value.isprintable() and " " not in value
    assert "?" not in text.path


def test_http_2_has_its_path_alone() -> None:
    record = np.zeros(1, layout.REQUEST_EVENT)
    line = b"/a/b?password=x#y"
    record["event"]["type"], record["event"]["reason"], record["event"]["text_length"] = (
        decode.REQUEST,
        GRPC.number,
        len(line),
    )
    record["text"][0, : len(line)] = list(line)
    text = decode.decode([record.tobytes()]).texts[0]
    assert (text.path, text.version, text.method, text.query) == ("/a/b", "HTTP/2", "", True)


def test_an_operation_is_a_text_and_no_flow() -> None:
    record = np.zeros(1, layout.OPERATION_EVENT)
    record["event"]["type"], record["event"]["operation"], record["event"]["text_length"] = decode.OPERATION, 77, 5
    record["text"][0, :5] = list(b"/a\x1b/*")
    batch = decode.decode([record.tobytes()])
    assert batch.operations == {77: "/a%1B/*"} and batch.announced == 1 and not len(batch.events)


def test_request_line() -> None:
    assert decode.split_request_line(b"GET /a/b?password=x HTTP/1.1\r\n") == ("GET", "/a/b", "HTTP/1.1", True)
    assert decode.split_request_line(b"GET http://h/p?q HTTP/1.1\r\n")[1] == "/p"
    assert decode.split_request_line(b"GET /\x1b[31m HTTP/1.1\r\n")[1] == "/%1B[31m"
    assert decode.split_request_line(b"") == ("", "", "", False)


@given(st.binary(max_size=600))
@settings(max_examples=1000, deadline=None)
def test_dns_and_hello_never_raise(data: bytes) -> None:
    wire.dns_message(data)
    wire.server_name(data)
    streams, hellos = wire.DnsStreams(), wire.HelloStreams()
    for at in range(0, len(data), 50):
        streams.feed(1, at, data[at : at + 50])
        hellos.feed(1, at, data[at : at + 50])


def test_dns_against_a_library() -> None:
    reply = dnslib.DNSRecord.question("www.example.com").reply()
    reply.add_answer(*dnslib.RR.fromZone("www.example.com 60 CNAME edge.example.net\nedge.example.net 30 A 192.0.2.7"))
    reply.add_answer(*dnslib.RR.fromZone("edge.example.net 20 AAAA 2001:db8::1\nother.example.org 5 A 192.0.2.9"))
    message = wire.dns_message(reply.pack())
    assert message is not None
    assert message.question == "www.example.com"
    assert message.addresses == (("192.0.2.7", 30), ("2001:db8:0:0:0:0:0:1", 20))
    assert message.names == ("edge.example.net",)
    packed = reply.pack()
    for cut in range(len(packed)):
        wire.dns_message(packed[:cut])


def client_hello(name: str) -> bytes:
    import ssl

    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def test_server_name_of_a_real_hello_split_anywhere() -> None:
    hello = client_hello("api.example.com")
    assert wire.server_name(hello) == "api.example.com"
    for cut in (1, 5, 43, 100, len(hello) - 1):
        streams = wire.HelloStreams()
        first = streams.feed(7, 4294967290, hello[:cut])
        second = streams.feed(7, (4294967290 + cut) & 0xFFFFFFFF, hello[cut:])
        assert (first or second) == "api.example.com"


def test_streams_are_bounded() -> None:
    streams = wire.HelloStreams()
    for cookie in range(5000):
        streams.feed(cookie, 0, b"\x16\x03\x01\x02\x00")
    assert len(streams._pieces) <= wire.MAX_STREAMS


def test_empty_batch() -> None:
    assert isinstance(decode.decode([]).events, np.ndarray)
