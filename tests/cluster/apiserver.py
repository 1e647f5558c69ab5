"""An API server's list and watch, for real clients: TLS, bearer tokens, pages, resource versions, bookmarks, and faults on demand."""

from __future__ import annotations

import json
import ssl
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.certificates import make_certificate

PATHS = {
    "/api/v1/pods": ("pods", "v1", "Pod"),
    "/api/v1/services": ("services", "v1", "Service"),
    "/api/v1/nodes": ("nodes", "v1", "Node"),
    "/api/v1/namespaces": ("namespaces", "v1", "Namespace"),
    "/apis/discovery.k8s.io/v1/endpointslices": ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    "/apis/apps/v1/replicasets": ("replicasets", "apps/v1", "ReplicaSet"),
    "/apis/batch/v1/jobs": ("jobs", "batch/v1", "Job"),
    "/apis/batch/v1/cronjobs": ("cronjobs", "batch/v1", "CronJob"),
    "/apis/networking.k8s.io/v1/networkpolicies": ("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
}


@dataclass
class Faults:
    """What goes wrong from now on; counters go down with each use."""

    refuse: deque[tuple[int, str]] = field(default_factory=deque)
    """(status, Retry-After) of the next requests."""
    error_events: int = 0
    """Watches that begin with an ERROR event 410."""
    cut_lines: int = 0
    """Watches that end in the middle of a line."""
    silent: bool = False
    """Watches that say nothing: half-open."""
    bad_objects: int = 0


class ApiServer:
    """Objects by resource and uid. put() and delete() are what a cluster does; everything watches see has a version."""

    def __init__(self, scratch: Path, token: str = "secret-token") -> None:
        self.token = token
        self.faults = Faults()
        self.requests: list[str] = []
        self._objects: dict[str, dict[str, dict[str, Any]]] = {name: {} for name, _, _ in PATHS.values()}
        self._log: list[tuple[int, str, str, dict[str, Any]]] = []
        self._version = 1
        self._listings: dict[str, tuple[list[dict[str, Any]], int]] = {}
        self._oldest = 0
        self._changed = threading.Condition()
        self._scratch = scratch
        self.certificate, self.key = make_certificate(scratch, "api", "127.0.0.1")
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    # -- the cluster ---------------------------------------------------------------------------------------------

    def put(self, resource: str, item: dict[str, Any]) -> str:
        """Adds or changes an object by its metadata.uid (made up when missing). Returns the uid."""
        item = json.loads(json.dumps(item))
        uid = item["metadata"].setdefault("uid", str(uuid.uuid4()))
        with self._changed:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            item["metadata"].setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            kind = "MODIFIED" if uid in self._objects[resource] else "ADDED"
            self._objects[resource][uid] = item
            self._log.append((self._version, resource, kind, item))
            self._changed.notify_all()
        return str(uid)

    def delete(self, resource: str, uid: str) -> None:
        with self._changed:
            item = self._objects[resource].pop(uid)
            self._version += 1
            gone = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self._version)}}
            self._log.append((self._version, resource, "DELETED", gone))
            self._changed.notify_all()

    def listing(self, resource: str) -> tuple[list[dict[str, Any]], int]:
        """(all objects, version); made once a version, as a real server's watch cache does. Called with the lock."""
        known = self._listings.get(resource)
        if known is None or known[1] != self._version:
            known = self._listings[resource] = (list(self._objects[resource].values()), self._version)
        return known

    def compact(self) -> None:
        """Forgets history: older versions get 410 from now on."""
        with self._changed:
            self._oldest = self._version
            self._log.clear()
            self._changed.notify_all()

    # -- the server ----------------------------------------------------------------------------------------------

    def start(self, port: int = 0) -> None:
        handler = _handler(self)
        self._server = ThreadingHTTPServer(("127.0.0.1", port or self.port), handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self._stopping = threading.Event()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Away: connections are cut, new ones are refused."""
        assert self._server is not None
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self) -> Path:
        path = self._scratch / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port}",
                                "certificate-authority": str(self.certificate),
                            },
                        }
                    ],
                    "users": [{"name": "agent", "user": {"token": self.token}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
                    "current-context": "test",
                }
            )
        )
        return path


def _handler(api: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            api.requests.append(self.path)
            if self.headers.get("Authorization") != f"Bearer {api.token}":
                self._status(401, "Unauthorized")
            elif api.faults.refuse:
                code, after = api.faults.refuse.popleft()
                self._status(code, "Fault", after)
            elif url.path not in PATHS:
                self._status(404, "NotFound")
            elif query.get("watch"):
                self._watch(PATHS[url.path][0], int(query.get("resourceVersion") or 0), query)
            else:
                self._list(*PATHS[url.path], query)

        def _status(self, code: int, reason: str, after: str = "") -> None:
            body = json.dumps({"kind": "Status", "code": code, "reason": reason}).encode()
            self.send_response(code)
            if after:
                self.send_header("Retry-After", after)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _wanted(self, item: dict[str, Any], query: dict[str, str]) -> bool:
            selector = query.get("fieldSelector", "")
            if selector.startswith("spec.nodeName="):
                return bool(item.get("spec", {}).get("nodeName") == selector.partition("=")[2])
            return True

        def _list(self, resource: str, version: str, kind: str, query: dict[str, str]) -> None:
            with api._changed:
                everything, at = api.listing(resource)
                if query.get("fieldSelector"):
                    everything = [item for item in everything if self._wanted(item, query)]
            start, limit = int(query.get("continue") or 0), int(query.get("limit") or 500)
            page: list[Any] = everything[start : start + limit]
            if api.faults.bad_objects and resource == "pods" and start == 0:
                api.faults.bad_objects -= 1
                page = [{"metadata": {"name": 7, "uid": []}}, *page]
            meta = {"resourceVersion": str(at)}
            if start + limit < len(everything):
                meta["continue"] = str(start + limit)
            if "PartialObjectMetadata" in self.headers.get("Accept", ""):
                page = [{"metadata": item["metadata"]} for item in page]
            body = json.dumps({"apiVersion": version, "kind": kind + "List", "metadata": meta, "items": page}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _send(self, text: bytes) -> None:
            self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
            self.wfile.flush()

        def _watch(self, resource: str, since: int, query: dict[str, str]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            stopping = api._stopping
            if since < api._oldest or api.faults.error_events:
                api.faults.error_events = max(0, api.faults.error_events - 1)
                status = {"kind": "Status", "code": 410, "reason": "Expired"}
                self._send(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
                self._send(b"")
                return
            if api.faults.silent:
                stopping.wait(60)
                self.close_connection = True
                return
            told = since
            bookmark = time.monotonic() + 1.0
            try:
                while not stopping.is_set():
                    with api._changed:
                        events = [e for e in api._log if e[0] > told and e[1] == resource and self._wanted(e[3], query)]
                        told = api._version
                        if not events:
                            api._changed.wait(0.2)
                    for _, _, kind, item in events:
                        line = json.dumps({"type": kind, "object": item}).encode() + b"\n"
                        if api.faults.cut_lines:
                            api.faults.cut_lines -= 1
                            self._send(line[: len(line) // 2])
                            self.close_connection = True
                            self.connection.close()
                            return
                        self._send(line)
                    if time.monotonic() > bookmark:
                        bookmark = time.monotonic() + 1.0
                        note = {"kind": "X", "metadata": {"resourceVersion": str(told)}}
                        self._send(json.dumps({"type": "BOOKMARK", "object": note}).encode() + b"\n")
                self.close_connection = True
            except OSError:
                return

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
