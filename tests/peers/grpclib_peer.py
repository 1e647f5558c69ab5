"""grpclib, in pure Python: `grpclib_peer.py serve HOST PORT REPORT`, and `ask HOST PORT CONNECTIONS`, told "CALLS STREAMS" by lines."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server

METHOD = "/sidelight.test.Interop/Unary"


class Plain(CodecBase):
    """Bytes as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        return data


class Interop:
    calls = 0

    async def unary(self, stream: Any) -> None:
        Interop.calls += 1
        await stream.recv_message()
        await stream.send_message(b"x" * 10)

    def __mapping__(self) -> dict[str, Handler]:
        return {METHOD: Handler(self.unary, Cardinality.UNARY_UNARY, bytes, bytes)}


async def serve(host: str, port: int, report: Path) -> None:
    server = Server([Interop()], codec=Plain())
    await server.start(host, port)
    while True:
        report.with_suffix(".new").write_text(str(Interop.calls))
        report.with_suffix(".new").rename(report)
        await asyncio.sleep(0.05)


async def ask(host: str, port: int, connections: int) -> None:
    channels = [Channel(host, port, codec=Plain()) for _ in range(connections)]
    methods = [UnaryUnaryMethod(channel, METHOD, bytes, bytes) for channel in channels]
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        calls, streams = map(int, line.split())
        good = 0

        async def worker(method: Any) -> None:
            nonlocal calls, good
            while calls > 0:
                calls -= 1
                await method(b"10")
                good += 1

        await asyncio.gather(*(worker(method) for method in methods for _ in range(streams)))
        print(good, flush=True)
    for channel in channels:
        channel.close()


if sys.argv[1] == "serve":
    asyncio.run(serve(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
else:
    asyncio.run(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
