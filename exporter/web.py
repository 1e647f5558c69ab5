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
from sidelight.exporter.verify.sessions import MOST_BODY, Sessions

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

    def __init__(
        self,
        agent: Agent,
        renderer: Renderer,
        listen: str,
        *,
        map_anywhere: bool = False,
        sessions: Sessions | None = None,
    ) -> None:
        """`sessions`: those of /verify; outside loopback without a token they are off, as flows are."""
        local = _loopback(listen)
        if sessions is not None and not local and not sessions.guarded:
            sessions = None
        self._sessions = sessions
        handler = _handler(agent, renderer, local or map_anywhere, sessions)
        self._server = _listening(listen, handler, "; choose another --metrics-listen")
        self.port: int = self._server.server_address[1]

    def stop(self) -> None:
        if self._sessions:
            self._sessions.stop()
        self._server.shutdown()
        self._server.server_close()


class VerifyServer:
    """/verify alone, for `sidelight verify --serve`. Raises ConfigError outside loopback without a token."""

    def __init__(self, sessions: Sessions, listen: str) -> None:
        if not _loopback(listen) and not sessions.guarded:
            raise ConfigError(f"{listen} is not loopback: say --token-file, so that only who knows it may ask")
        self._server = _listening(listen, _verify_handler(sessions))
        self.port: int = self._server.server_address[1]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _loopback(listen: str) -> bool:
    host, _ = parse_listen(listen)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(listen: str, handler: type[BaseHTTPRequestHandler], advice: str = "") -> _Server:
    """A server with a thread of its own. Raises ConfigError when the address cannot be had."""
    host, port = parse_listen(listen)
    try:
        server = _Server((host, port), handler, v6=":" in host)
    except OSError as error:
        raise ConfigError(f"cannot listen on {listen}: {error.strerror or error}{advice}") from None
    threading.Thread(target=server.serve_forever, name="web", daemon=True).start()
    return server


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


class _Handler(BaseHTTPRequestHandler):
    """What all of them have in common."""

    server_version = "sidelight"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 15

    def text(self, status: HTTPStatus, text: str) -> None:
        self.answer(status, text.encode(), "text/plain; charset=utf-8")

    def answer(self, status: HTTPStatus, body: bytes, kind: str, compressed: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if kind.startswith("text/html"):
            self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline'")
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if compressed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def verify(self, sessions: Sessions | None) -> None:
        """Answers /verify, with the request's body if it has one."""
        if sessions is None:
            self.text(HTTPStatus.NOT_FOUND, "/verify is off outside loopback: start with --verify-token-file\n")
            return
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > MOST_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self.text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"want a body with its length, {MOST_BODY} bytes at most\n")
            return
        body = self.rfile.read(int(length))
        status, kind, answer = sessions.answer(self.path, self.headers.get("Authorization", ""), body)
        self.answer(status, answer, kind)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


def _verify_handler(sessions: Sessions) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        def do_GET(self) -> None:
            if self.path == "/healthz":
                self.text(HTTPStatus.OK, "ok\n")
            else:
                self.verify(sessions)

        do_POST = do_PUT = do_GET

    return Handler


def _handler(
    agent: Agent, renderer: Renderer, with_map: bool, sessions: Sessions | None
) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == "/metrics":
                openmetrics, kind = negotiated(self.headers.get("Accept", ""))
                compressed = "gzip" in self.headers.get("Accept-Encoding", "")
                body = renderer.exposition(openmetrics, compressed)
                self.answer(HTTPStatus.OK, body, kind, compressed)
            elif path == "/healthz":
                self.text(HTTPStatus.OK, "ok\n")
            elif path == "/readyz":
                reason = not_ready(agent)
                self.text(HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK, (reason or "ready") + "\n")
            elif path in ("/map", "/map.json") and not with_map:
                self.text(HTTPStatus.NOT_FOUND, "the map is off outside loopback: start with --map\n")
            elif path == "/map":
                self.answer(HTTPStatus.OK, map_page(), "text/html; charset=utf-8")
            elif path == "/map.json":
                body = json.dumps(service_map(agent.snapshot())).encode()
                self.answer(HTTPStatus.OK, body, "application/json")
            elif path == "/verify" or path.startswith("/verify/"):
                self.verify(sessions)
            elif path == "/":
                self.text(HTTPStatus.OK, "sidelight: /metrics /healthz /readyz /map /verify\n")
            else:
                self.text(HTTPStatus.NOT_FOUND, "not found\n")

        def do_POST(self) -> None:
            if self.path.split("?")[0].startswith("/verify"):
                self.verify(sessions)
            else:
                self.text(HTTPStatus.METHOD_NOT_ALLOWED, "GET only\n")
                self.close_connection = True

        do_PUT = do_POST

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
