"""/metrics, /healthz, /readyz and /map over HTTP.

Concurrent scrapes share one rendering; rendering works on a snapshot and never waits for, or holds up, the capture.
"""

from __future__ import annotations

import gzip
import ipaddress
import json
import logging
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from sidelight.agent.core import Agent
from sidelight.agent.errors import ConfigError
from sidelight.exporter.exposition import Exemplars, negotiated, render
from sidelight.exporter.families import Collector, FamilyOptions
from sidelight.exporter.map import map_page, service_map

log = logging.getLogger("sidelight.web")

SHARED_FOR_S = 0.25
"""A rendering this young serves another scrape."""
MAX_CONNECTIONS = 32


class Renderer:
    """Renders at most one exposition at a time; who asks meanwhile gets the same bytes."""

    def __init__(self, agent: Agent, options: FamilyOptions, exemplars: Callable[[], Exemplars] | None = None) -> None:
        self._agent, self._options = agent, options
        self._exemplars = exemplars or dict
        self._lock = threading.Lock()
        self._made: dict[bool, tuple[float, bytes, bytes]] = {}

    def exposition(self, openmetrics: bool, compressed: bool) -> bytes:
        with self._lock:
            made = self._made.get(openmetrics)
            if made is None or time.monotonic() - made[0] > SHARED_FOR_S:
                families = Collector(self._agent.snapshot(), self._options).collect()
                plain = render(families, openmetrics, self._exemplars())
                made = self._made[openmetrics] = (time.monotonic(), plain, b"")
            if compressed and not made[2]:
                made = self._made[openmetrics] = (made[0], made[1], gzip.compress(made[1], 1))
            return made[2] if compressed else made[1]


def parse_listen(text: str, default_host: str = "127.0.0.1") -> tuple[str, int]:
    """HOST:PORT, [V6]:PORT, :PORT or PORT. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    host = host.strip("[]") or (default_host if not colon else "0.0.0.0")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} is not HOST:PORT")
    return host, int(port)


class WebServer:
    """Threads of its own. Raises ConfigError when the port is taken."""

    def __init__(self, agent: Agent, renderer: Renderer, listen: str, *, map_anywhere: bool = False) -> None:
        host, port = parse_listen(listen)
        loopback = host == "localhost" or (host and ipaddress.ip_address(host).is_loopback)
        handler = _handler(agent, renderer, bool(loopback) or map_anywhere)
        try:
            self._server = _Server((host, port), handler, v6=":" in host)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {listen}: {error.strerror or error}; choose another --metrics-listen"
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], v6: bool) -> None:
        import socket

        self.address_family = socket.AF_INET6 if v6 else socket.AF_INET
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request, client_address):  # type: ignore[no-untyped-def]
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):  # type: ignore[no-untyped-def]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request, client_address):  # type: ignore[no-untyped-def]
        log.debug("connection from %s ended early", client_address)


def _handler(agent: Agent, renderer: Renderer, with_map: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "sidelight"
        sys_version = ""
        protocol_version = "HTTP/1.1"
        timeout = 15

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                openmetrics, kind = negotiated(self.headers.get("Accept", ""))
                compressed = "gzip" in self.headers.get("Accept-Encoding", "")
                body = renderer.exposition(openmetrics, compressed)
                self._answer(HTTPStatus.OK, body, kind, compressed)
            elif path == "/healthz":
                self._text(HTTPStatus.OK, "ok\n")
            elif path == "/readyz":
                reason = not_ready(agent)
                self._text(HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK, (reason or "ready") + "\n")
            elif path in ("/map", "/map.json") and not with_map:
                self._text(HTTPStatus.NOT_FOUND, "the map is off outside loopback: start with --map\n")
            elif path == "/map":
                self._answer(HTTPStatus.OK, map_page(), "text/html; charset=utf-8")
            elif path == "/map.json":
                body = json.dumps(service_map(agent.snapshot())).encode()
                self._answer(HTTPStatus.OK, body, "application/json")
            elif path == "/":
                self._text(HTTPStatus.OK, "sidelight: /metrics /healthz /readyz /map\n")
            else:
                self._text(HTTPStatus.NOT_FOUND, "not found\n")

        def _text(self, status: HTTPStatus, text: str) -> None:
            self._answer(status, text.encode(), "text/plain; charset=utf-8")

        def _answer(self, status: HTTPStatus, body: bytes, kind: str, compressed: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if kind.startswith("text/html"):
                self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'")
            if compressed:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    return Handler


def not_ready(agent: Agent) -> str:
    """Why the agent is not ready: ready means that it captures and, with Kubernetes, knows the names."""
    if not agent.ready.is_set():
        return "not capturing yet"
    if agent.failed:
        return f"capture fails: {agent.failed}"
    if agent.index is not None and not getattr(agent.index, "synced", True):
        return "identity is not synced with the API server yet"
    return ""
