"""The demo's Python service: /cart counts visits in redis, /slow takes its time, /fail fails. Prints nothing, counts everything."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_served = 0
_lock = threading.Lock()


def _redis(port: int, *words: str) -> bytes:
    """One command to redis on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
        connection.sendall("".join(parts).encode())
        return connection.recv(4096)


def main() -> None:
    port, redis_port, report = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            global _served
            with _lock:
                _served += 1
            status, body = 200, b"ok\n"
            if self.path.startswith("/slow"):
                time.sleep(0.6)
            elif self.path.startswith("/fail"):
                status, body = 500, b"no\n"
            elif self.path.startswith("/cart"):
                body = json.dumps({"visits": _redis(redis_port, "INCR", "visits")[1:-2].decode()}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)

    def finish(*_: object) -> None:
        report.write_text(str(_served))
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, finish)
    server.serve_forever()


if __name__ == "__main__":
    main()
