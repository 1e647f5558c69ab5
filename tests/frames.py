"""Conversations of HTTP/2 of which every frame is known (RFC 9113), and what is to be counted of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 0x20
NO_ERROR, CANCEL, REFUSED_STREAM, ENHANCE_YOUR_CALM = 0, 8, 7, 11
GRPC = [("content-type", "application/grpc")]
Fields = Iterable[tuple[str, str]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(body: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\0" + len(body).to_bytes(4, "big") + body


@dataclass
class Side:
    """What one end says, in steps; its encoder has its own table."""

    encoder: Encoder = field(default_factory=Encoder)
    said: bytearray = field(default_factory=bytearray)

    def raw(self, data: bytes) -> None:
        self.said += data

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.said += frame(kind, flags, stream, payload)

    def headers(
        self, stream: int, fields: Fields, *, end: bool = False, pad: int = -1, priority: bool = False, cut: int = 0,
        huffman: bool = True, never: bool = False, promise: int = 0,
    ) -> None:  # fmt: skip
        """A header block; `cut`: bytes of each frame of it; `promise`: of a PUSH_PROMISE."""
        made = [(NeverIndexedHeaderTuple if never else HeaderTuple)(name, value) for name, value in fields]
        block = self.encoder.encode(made, huffman)
        parts = [block[i : i + cut] for i in range(0, len(block), cut)] if cut else [block]
        flags = (END_STREAM if end else 0) | (PADDED if pad >= 0 else 0) | (PRIORITIZED if priority else 0)
        head = (bytes((pad,)) if pad >= 0 else b"") + (b"\0\0\0\0\x10" if priority else b"")
        head += promise.to_bytes(4, "big") if promise else b""
        for index, part in enumerate(parts):
            last = END_HEADERS if index == len(parts) - 1 else 0
            if index == 0:
                kind = PUSH_PROMISE if promise else HEADERS
                self.frame(kind, flags | last, stream, head + part + bytes(max(pad, 0)))
            else:
                self.frame(CONTINUATION, last, stream, part)

    def data(self, stream: int, body: bytes, *, end: bool = False, pad: int = -1, cut: int = 0) -> None:
        parts = [body[i : i + cut] for i in range(0, len(body), cut)] if cut else [body]
        for index, part in enumerate(parts):
            flags = (END_STREAM if end and index == len(parts) - 1 else 0) | (PADDED if pad >= 0 else 0)
            head = bytes((pad,)) if pad >= 0 else b""
            self.frame(DATA, flags, stream, head + part + bytes(max(pad, 0)))


Count = Counter[tuple[str, str, int]]


@dataclass
class Talk:
    """Turns of both ends, and the truth: (protocol, method, status) -> exchanges, gRPC's status as 1 + code."""

    client: Side = field(default_factory=Side)
    server: Side = field(default_factory=Side)
    turns: list[tuple[str, bytes]] = field(default_factory=list)
    truth: Count = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    messages: tuple[int, int] = (0, 0)
    """gRPC messages of the client and of the server."""

    def __post_init__(self) -> None:
        self.client.raw(PREFACE + frame(SETTINGS, 0, 0))
        self.server.raw(frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64") + frame(SETTINGS, ACK, 0))
        self.turn()
        self.client.frame(SETTINGS, ACK, 0)

    def turn(self) -> None:
        """What has been said so far is sent and read before the next word: the client's first."""
        for name, side in (("client", self.client), ("server", self.server)):
            if side.said:
                self.turns.append((name, bytes(side.said)))
                side.said.clear()

    def ask(self, stream: int, path: str = "/a", method: str = "GET", more: Fields = (), **how: object) -> None:
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test.example:80")]
        self.client.headers(stream, [*pseudo, *more], **{"end": True, **how})  # type: ignore[arg-type]

    def answer(self, stream: int, status: int = 200, more: Fields = (), body: bytes = b"", **how: object) -> None:
        """One that counts."""
        self.server.headers(stream, [(":status", str(status)), *more], end=not body, **how)  # type: ignore[arg-type]
        if body:
            self.server.data(stream, body, end=True)

    def call(self, stream: int, method: str, *bodies: bytes, more: Fields = (), end: bool = True, cut: int = 0) -> None:
        fields = [("te", "trailers"), *GRPC, *more]
        self.ask(stream, f"/{method}", "POST", fields, end=False)
        said = b"".join(message(body) for body in bodies)
        if said or end:
            self.client.data(stream, said, end=end, cut=cut)

    def reply(self, stream: int, code: int, *bodies: bytes, cut: int = 0) -> None:
        self.server.headers(stream, [(":status", "200"), *GRPC])
        if bodies:
            self.server.data(stream, b"".join(message(body) for body in bodies), cut=cut)
        self.server.headers(stream, [("grpc-status", str(code)), ("grpc-message", "m" * code)], end=True)

    def count(self, protocol: str, method: str, status: int, n: int = 1) -> None:
        self.truth[protocol, method, status] += n

    def called(self, method: str, code: int, n: int = 1) -> None:
        self.count("gRPC", "POST", 1 + code, n)
        self.operations[method] += n


TALKS: dict[str, Callable[[Talk], None]] = {}


def talk(make: Callable[[Talk], None]) -> Callable[[Talk], None]:
    TALKS[make.__name__] = make
    return make


def made(name: str) -> Talk:
    found = Talk()
    TALKS[name](found)
    found.turn()
    return found


@talk
def one_request(t: Talk) -> None:
    t.ask(1)
    t.answer(1, body=b"hello")
    t.count("HTTP/2", "GET", 200)


@talk
def methods_and_statuses(t: Talk) -> None:
    statuses = (200, 204, 206, 304, 400, 404, 500, 201, 302, 418, 503, 599)
    methods = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW")
    stream = 1
    for status in statuses:
        for method in methods:
            t.ask(stream, f"/{method}/{status}", method)
            t.answer(stream, status)
            t.count("HTTP/2", method if method != "BREW" else "_OTHER", status)
            stream += 2
        t.turn()


@talk
def interleaved_data(t: Talk) -> None:
    for stream in (1, 3, 5):
        t.ask(stream)
    t.turn()
    for stream in (1, 3, 5):
        t.server.headers(stream, [(":status", "200")])
    for _ in range(5):
        for stream in (5, 1, 3):
            t.server.data(stream, b"x" * 700)
    for stream in (3, 5, 1):
        t.server.data(stream, b"", end=True)
    t.count("HTTP/2", "GET", 200, 3)


@talk
def continuation(t: Talk) -> None:
    for stream, cut in ((1, 1), (3, 2), (5, 7), (7, 100)):
        t.ask(stream, "/a/rather/long/path", more=[("x-long", "v" * 300)], cut=cut)
        t.answer(stream, 404, more=[("server", "cut")], cut=cut, body=b"no")
    t.count("HTTP/2", "GET", 404, 4)


@talk
def padding_and_priority(t: Talk) -> None:
    t.ask(1, pad=0)
    t.ask(3, pad=255)
    t.ask(5, priority=True)
    t.ask(7, pad=17, priority=True)
    t.ask(9, "/p", "POST", end=False, pad=3, priority=True, cut=5)
    t.client.data(9, b"b" * 100, pad=40)
    t.client.data(9, b"", pad=255, end=True)
    t.client.frame(PRIORITY, 0, 9, b"\0\0\0\0\1")
    t.turn()
    for stream in (1, 3, 5, 7, 9):
        t.server.headers(stream, [(":status", "200")], pad=9)
        t.server.data(stream, b"body", pad=30, end=True)
    t.count("HTTP/2", "GET", 200, 4)
    t.count("HTTP/2", "POST", 200)


@talk
def interim_answers(t: Talk) -> None:
    t.ask(1, "/early", "POST", end=False)
    t.turn()
    t.server.headers(1, [(":status", "100")])
    t.server.headers(1, [(":status", "103"), ("link", "</x>")])
    t.turn()
    t.client.data(1, b"x" * 10, end=True)
    t.answer(1, 201, body=b"done")
    t.count("HTTP/2", "POST", 201)


@talk
def trailers(t: Talk) -> None:
    t.ask(1, "/up", "POST", end=False)
    t.client.data(1, b"x" * 50)
    t.client.headers(1, [("x-checksum", "1")], end=True)
    t.turn()
    t.server.headers(1, [(":status", "200")])
    t.server.data(1, b"y" * 50)
    t.server.headers(1, [("x-checksum", "2")], end=True)
    t.count("HTTP/2", "POST", 200)


@talk
def resets(t: Talk) -> None:
    for stream in (1, 3, 5, 7):
        t.ask(stream, end=stream != 5)
    t.turn()
    t.client.frame(RST_STREAM, 0, 1, CANCEL.to_bytes(4, "big"))
    t.server.frame(RST_STREAM, 0, 3, REFUSED_STREAM.to_bytes(4, "big"))
    t.server.headers(5, [(":status", "200")], end=True)
    t.server.frame(RST_STREAM, 0, 5, NO_ERROR.to_bytes(4, "big"))
    t.server.headers(7, [(":status", "200")])
    t.turn()
    t.client.frame(RST_STREAM, 0, 7, CANCEL.to_bytes(4, "big"))
    t.turn()
    t.count("HTTP/2", "GET", 0, 2)
    t.count("HTTP/2", "GET", 200, 2)


@talk
def reset_crosses_the_end(t: Talk) -> None:
    """Both at once: counted once."""
    for stream in range(1, 41, 2):
        t.ask(stream)
    t.turn()
    for stream in range(1, 41, 2):
        t.server.headers(stream, [(":status", "200")], end=True)
        t.client.frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
    t.truth["HTTP/2", "GET", -1] = 20


@talk
def pushed(t: Talk) -> None:
    t.ask(1)
    t.turn()
    t.server.headers(
        1, [(":method", "GET"), (":path", "/style.css"), (":scheme", "http"), (":authority", "x")], promise=2
    )
    t.server.headers(2, [(":status", "200")])
    t.answer(1, body=b"page")
    t.server.data(2, b"style", end=True)
    t.turn()
    t.ask(3, "/b")
    t.answer(3, 404)
    t.count("HTTP/2", "GET", 200)
    t.count("HTTP/2", "GET", 404)


@talk
def unanswered_at_the_end(t: Talk) -> None:
    for stream in range(1, 61, 2):
        t.ask(stream)
    t.answer(31, 200)
    t.server.headers(33, [(":status", "200")])
    t.server.frame(GOAWAY, 0, 0, (59).to_bytes(4, "big") + bytes(4))
    t.count("HTTP/2", "GET", 200, 2)
    t.count("HTTP/2", "GET", 0, 28)


@talk
def hundred_headers(t: Talk) -> None:
    for stream in range(1, 11, 2):
        t.ask(stream, "/many", more=[(f"x-header-{n}", f"value {n} of {stream}") for n in range(100)])
        t.answer(stream, 200, more=[(f"x-answer-{n}", "v" * n) for n in range(100)])
    t.count("HTTP/2", "GET", 200, 5)


@talk
def long_strings(t: Talk) -> None:
    for stream, huffman in ((1, True), (3, False)):
        t.ask(stream, "/" + "p" * 2000, more=[("cookie", "c" * 4000)], huffman=huffman, cut=1000)
        t.answer(stream, 200, more=[("x", "y" * 3000)], huffman=huffman)
    t.ask(5, "/after")
    t.answer(5, 503)
    t.count("HTTP/2", "GET", 200, 2)
    t.count("HTTP/2", "GET", 503)


@talk
def table_sizes(t: Talk) -> None:
    """The table shrinks, empties and grows; entries come and go."""
    for stream, size in zip(range(1, 200, 2), [4096, 0, 100, 4096, 300, 31, 64, 1024] * 12, strict=False):
        t.client.encoder.header_table_size = size
        t.server.encoder.header_table_size = size
        t.ask(stream, f"/path/{stream % 14}", ("GET", "PUT")[stream % 4 == 1], more=[("x-a", "b" * (stream % 50))])
        t.answer(stream, (200, 404, 502)[stream % 3], more=[("x-c", "d" * (stream % 40))])
        t.count("HTTP/2", ("GET", "PUT")[stream % 4 == 1], (200, 404, 502)[stream % 3])
        if stream % 20 == 1:
            t.turn()


@talk
def never_indexed(t: Talk) -> None:
    for stream in (1, 3, 5):
        t.ask(stream, "/secret", "DELETE", never=True)
        t.answer(stream, 403, never=True)
    t.count("HTTP/2", "DELETE", 403, 3)


@talk
def settings_and_pings(t: Talk) -> None:
    t.client.frame(SETTINGS, 0, 0, b"\0\5\0\0\x80\0" + b"\0\4\0\1\0\0")
    t.server.frame(SETTINGS, ACK, 0)
    t.client.frame(PING, 0, 0, b"12345678")
    t.server.frame(PING, ACK, 0, b"12345678")
    t.client.frame(WINDOW_UPDATE, 0, 0, b"\0\1\0\0")
    t.client.frame(0xBE, 0, 0, b"unknown frames are passed over")
    t.turn()
    t.ask(1)
    t.server.headers(1, [(":status", "200")])
    t.server.data(1, b"z" * 30000, end=True)  # allowed by that SETTINGS
    t.count("HTTP/2", "GET", 200)


@talk
def websocket_over_connect(t: Talk) -> None:
    """RFC 8441: one exchange, as long as it lasts."""
    fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "x"),
    ]
    t.client.headers(1, fields)
    t.turn()
    t.server.headers(1, [(":status", "200")])
    for _ in range(3):
        t.turn()
        t.client.data(1, b"\x81\x85abcdhello")
        t.server.data(1, b"\x81\x05hello")
    t.turn()
    t.client.data(1, b"\x88\x80abcd", end=True)
    t.server.data(1, b"\x88\x00", end=True)
    t.count("HTTP/2", "CONNECT", 200)


@talk
def lure(t: Talk) -> None:
    """Bodies that look like frames, and like HTTP/1."""
    body = frame(HEADERS, END_HEADERS | END_STREAM, 99, b"\x82\x84\x86") + b"GET / HTTP/1.1\r\n\r\n" + PREFACE
    t.ask(1, "/", "POST", end=False)
    t.client.data(1, body * 30, end=True, cut=333)
    t.answer(1, 200, body=body * 20)
    t.ask(3)
    t.answer(3, 200)
    t.count("HTTP/2", "POST", 200)
    t.count("HTTP/2", "GET", 200)


@talk
def grpc_kinds(t: Talk) -> None:
    t.call(1, "pkg.Svc/Unary", b"ask")
    t.call(3, "pkg.Svc/Unary", b"again")
    t.turn()
    t.reply(1, 0, b"answer")
    t.reply(3, 0, b"answer" * 100)
    t.turn()
    t.call(5, "pkg.Svc/Up", b"", b"a" * 3000, b"b", cut=11)
    t.reply(5, 0, b"sum")
    t.call(7, "pkg.Svc/Down", b"go")
    t.reply(7, 0, *[b"y" * n for n in (0, 1, 5000, 2)], cut=997)
    t.call(9, "pkg.Svc/Both", b"1", b"2", b"3")
    t.reply(9, 0, b"1", b"2")
    for method, n in (("pkg.Svc/Unary", 2), ("pkg.Svc/Up", 1), ("pkg.Svc/Down", 1), ("pkg.Svc/Both", 1)):
        t.called(method, 0, n)
    t.messages = (1 + 1 + 3 + 1 + 3, 1 + 1 + 1 + 4 + 2)


@talk
def grpc_interleaved_messages(t: Talk) -> None:
    """Prefixes and messages of two streams cut by each other's frames."""
    one, two = message(b"a" * 40) + message(b""), message(b"b" * 9) + message(b"c" * 20)
    t.call(1, "s/A", end=False)
    t.call(3, "s/B", end=False)
    for at in range(0, len(one), 3):
        t.client.data(1, one[at : at + 3])
        t.client.data(3, two[at : at + 3])
    t.client.data(1, b"", end=True)
    t.client.data(3, b"", end=True)
    t.turn()
    t.reply(1, 0)
    t.reply(3, 7, b"x")
    t.called("s/A", 0)
    t.called("s/B", 7)
    t.messages = (4, 1)


@talk
def grpc_every_status(t: Talk) -> None:
    stream = 1
    for _ in range(2):  # the second time from the table
        for code in range(17):
            t.call(stream, "pkg.Svc/Fail", b"x")
            t.reply(stream, code)
            t.called("pkg.Svc/Fail", code)
            stream += 2
        t.turn()
    t.messages = (34, 0)


@talk
def grpc_trailers_only(t: Talk) -> None:
    t.call(1, "pkg.Svc/Missing", b"x")
    t.server.headers(1, [(":status", "200"), *GRPC, ("grpc-status", "12"), ("grpc-message", "no")], end=True)
    t.called("pkg.Svc/Missing", 12)
    t.messages = (1, 0)


@talk
def grpc_without_status(t: Talk) -> None:
    """A proxy answers, or nobody says: by the HTTP status (http-grpc-status-mapping.md)."""
    stream = 1
    for status, code in (
        (200, 2),
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (502, 14),
        (503, 14),
        (504, 14),
        (500, 2),
    ):
        t.call(stream, "pkg.Svc/Proxied", b"x")
        t.answer(stream, status, [("content-type", "text/html")], b"<p>")
        t.called("pkg.Svc/Proxied", code)
        stream += 2
    t.messages = (10, 0)


@talk
def grpc_resets(t: Talk) -> None:
    stream = 1
    for code, expected in ((0, 13), (1, 13), (2, 13), (3, 13), (7, 14), (8, 1), (9, 13), (11, 8), (12, 7), (13, 13)):
        t.call(stream, "pkg.Svc/Reset", b"x")
        t.turn()
        (t.client if stream % 4 == 1 else t.server).frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))
        t.called("pkg.Svc/Reset", expected)
        stream += 2
        t.turn()
    t.messages = (10, 0)


@talk
def grpc_deadline_and_cancel(t: Talk) -> None:
    for stream, timeout in ((1, "1u"), (3, "1H"), (5, "99999999n"), (7, "0S")):
        t.call(stream, "pkg.Svc/Late", b"x", more=[("grpc-timeout", timeout)])
    t.turn()
    for stream in (1, 3, 5, 7):
        t.client.frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
    t.called("pkg.Svc/Late", 4)
    t.called("pkg.Svc/Late", 1, 3)
    t.messages = (4, 0)


@talk
def grpc_unfinished(t: Talk) -> None:
    """The connection ends: no status came."""
    t.call(1, "pkg.Svc/Stream", b"x", end=False)
    t.turn()
    t.server.headers(1, [(":status", "200"), *GRPC])
    t.server.data(1, message(b"one"))
    t.count("gRPC", "POST", 0)
    t.operations["pkg.Svc/Stream"] += 1
    t.messages = (1, 1)


@talk
def grpc_content_types(t: Talk) -> None:
    stream = 1
    for kind, rpc in (
        ("application/grpc+proto", True),
        ("application/grpc;x=1", True),
        ("application/grpc-web", False),
        ("application/grpcish", False),
        ("application/json", False),
    ):
        t.ask(stream, "/pkg.Svc/Typed", "POST", [("content-type", kind)], end=False)
        t.client.data(stream, message(b"x"), end=True)
        t.server.headers(stream, [(":status", "200"), ("content-type", kind)])
        t.server.headers(stream, [("grpc-status", "0")], end=True)
        if rpc:
            t.called("pkg.Svc/Typed", 0)
        else:
            t.count("HTTP/2", "POST", 200)
        stream += 2
    t.messages = (2, 0)


@talk
def many_at_once(t: Talk) -> None:
    for first in range(1, 2000, 400):
        for stream in range(first, first + 400, 2):
            t.call(stream, f"pkg.Svc/M{stream % 5}", b"x")
        t.turn()
        for stream in range(first + 398, first - 1, -2):
            t.reply(stream, 0, b"y")
            t.called(f"pkg.Svc/M{stream % 5}", 0)
        t.turn()
    t.messages = (1000, 1000)
