"""gRPC's interop cases with grpcio: `grpc_client.py TARGET CASE[=TIMES]...`. Prints a line of JSON: what it saw of each call.

`grpc_client.py TARGET load CONNECTIONS [METHOD REQUEST]`: reads lines "CALLS STREAMS", calls so often, so many at once, and says how
many were OK. The request in hexadecimal.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc

SERVICE = "sidelight.test.Interop"
seen: Counter[str] = Counter()
lock = threading.Lock()


def note(method: str, code: Any) -> None:
    with lock:
        seen[f"{method} {code.name}"] += 1


class Peer:
    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])

    def unary(self, method: str, request: bytes, service: str = SERVICE, **more: Any) -> None:
        call = self.channel.unary_unary(f"/{service}/{method}").future(request, **more)
        note(f"{service}/{method}", call.code())

    def empty_unary(self) -> None:
        self.unary("Unary", b"0")

    def large_unary(self) -> None:
        self.unary("Unary", b"314159\n" + b"a" * 271828)

    def client_streaming(self) -> None:
        call = self.channel.stream_unary(f"/{SERVICE}/Collect").future(
            iter([b"a" * n for n in (27182, 8, 1828, 45904)])
        )
        assert call.result() == b"74922"
        note(f"{SERVICE}/Collect", call.code())

    def server_streaming(self) -> None:
        call = self.channel.unary_stream(f"/{SERVICE}/Spread")(b"31415,9,2653,58979")
        assert [len(part) for part in call] == [31415, 9, 2653, 58979]
        note(f"{SERVICE}/Spread", call.code())

    def ping_pong(self) -> None:
        turn = threading.Semaphore(1)

        def ask() -> Iterator[bytes]:
            for size in (31415, 9, 2653, 58979):
                turn.acquire()
                yield str(size).encode()

        call = self.channel.stream_stream(f"/{SERVICE}/Echo")(ask())
        for _ in call:
            turn.release()
        note(f"{SERVICE}/Echo", call.code())

    def empty_stream(self) -> None:
        call = self.channel.stream_stream(f"/{SERVICE}/Echo")(iter(()))
        assert not list(call)
        note(f"{SERVICE}/Echo", call.code())

    def custom_metadata(self) -> None:
        self.unary(
            "Unary", b"10", metadata=(("x-grpc-test-echo-initial", "test" * 900), ("x-trace-bin", b"\xab\xab\xab"))
        )

    def status_code_and_message(self) -> None:
        self.unary("Status", b"UNKNOWN test status message")

    def special_status_message(self) -> None:
        self.unary(
            "Status", "INVALID_ARGUMENT \t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n".encode()
        )

    def every_status(self) -> None:
        for code in grpc.StatusCode:
            if code is not grpc.StatusCode.OK:
                self.unary("Status", code.name.encode())

    def unimplemented_method(self) -> None:
        self.unary("Missing", b"")

    def unimplemented_service(self) -> None:
        self.unary("Method", b"", service="sidelight.test.Missing")

    def cancel_after_begin(self) -> None:
        hold = threading.Event()

        def ask() -> Iterator[bytes]:
            hold.wait(5)
            yield b""

        call = self.channel.stream_unary(f"/{SERVICE}/Collect").future(ask())
        time.sleep(0.2)
        call.cancel()
        note(f"{SERVICE}/Collect", call.code())
        hold.set()

    def cancel_after_first_response(self) -> None:
        hold = threading.Event()

        def ask() -> Iterator[bytes]:
            yield b"31415"
            hold.wait(5)

        call = self.channel.stream_stream(f"/{SERVICE}/Echo")(ask())
        next(call)
        call.cancel()
        note(f"{SERVICE}/Echo", call.code())
        hold.set()

    def timeout_on_sleeping_server(self) -> None:
        self.unary("Sleep", b"0.5", timeout=0.1)


def load(target: str, connections: int, name: str = f"/{SERVICE}/Unary", request: str = b"10".hex()) -> None:
    peers = [Peer(target) for _ in range(connections)]
    methods = [peer.channel.unary_unary(name) for peer in peers]
    for line in sys.stdin:
        calls, streams = map(int, line.split())
        before = seen[f"{name} OK"]

        def one(method: Any, times: int, streams: int = streams) -> None:
            waiting = threading.Semaphore(streams)

            def done(ended: Any) -> None:
                note(name, ended.code())
                waiting.release()

            for _ in range(times):
                waiting.acquire()
                method.future(bytes.fromhex(request)).add_done_callback(done)
            for _ in range(streams):
                waiting.acquire()

        shares = [calls // connections + (index < calls % connections) for index in range(connections)]
        threads = [threading.Thread(target=one, args=pair) for pair in zip(methods, shares, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(seen[f"{name} OK"] - before, flush=True)


def main() -> None:
    target, *cases = sys.argv[1:]
    if cases[0] == "load":
        load(target, int(cases[1]), *cases[2:])
        return
    peer = Peer(target)
    for case in cases:
        name, _, times = case.partition("=")
        run: Callable[[], None] = getattr(peer, name)
        for _ in range(int(times or 1)):
            run()
    peer.channel.close()
    print(json.dumps(seen), flush=True)


main()
