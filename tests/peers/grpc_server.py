"""A grpcio server without generated code: `grpc_server.py HOST PORT REPORT`. Counts its calls by method as they begin."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

SERVICE = "sidelight.test.Interop"
counts: Counter[str] = Counter()
lock = threading.Lock()


def counted(name: str) -> None:
    with lock:
        counts[name] += 1


def unary(request: bytes, context: Any) -> bytes:
    """Answers with as many bytes as the request's first line says."""
    counted("Unary")
    return b"x" * int(request.split(b"\n", 1)[0] or b"0")


def status(request: bytes, context: Any) -> bytes:
    """Fails with the code and message that it is asked for."""
    counted("Status")
    code, _, message = request.decode().partition(" ")
    context.abort(next(c for c in grpc.StatusCode if c.name == code), message)


def sleep(request: bytes, context: Any) -> bytes:
    counted("Sleep")
    time.sleep(float(request))
    return b""


def collect(requests: Iterator[bytes], context: Any) -> bytes:
    counted("Collect")
    return str(sum(len(request) for request in requests)).encode()


def spread(request: bytes, context: Any) -> Iterator[bytes]:
    """`SIZE,SIZE...`: a response of each."""
    counted("Spread")
    for size in request.split(b","):
        yield b"y" * int(size)


def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    counted("Echo")
    for request in requests:
        yield b"z" * int(request or b"0")


def main() -> None:
    host, port, report = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Status": grpc.unary_unary_rpc_method_handler(status),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Spread": grpc.unary_stream_rpc_method_handler(spread),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    while not done.wait(0.1):
        with lock:
            said = json.dumps(counts)
        report.with_suffix(".new").write_text(said)
        report.with_suffix(".new").rename(report)
    server.stop(None)


main()
