"""A Kubernetes list and watch, told as a story of what can go wrong.

`follow` is a generator of changes of one resource that never ends by itself: it lists in pages, watches from there, and
when anything happens (a closed stream, a half line, silence, 410, 401, 429, 5xx) it waits as long as is decent and goes
on. After a relist the deletions that happened meanwhile are told too: the picture is whole again and was never empty.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from sidelight.identity import objects

PAGE = 500
IDLE_TIMEOUT_S = 330.0
"""Longer than the server's own limit on a watch: silence beyond it means that the connection is half-open."""
WATCH_SECONDS = 300
FIRST_DELAY_S, LAST_DELAY_S = 0.2, 30.0
MAX_LINE_BYTES = 16 << 20
MAX_PAGES = 10_000


@dataclass(frozen=True, slots=True)
class Resource:
    """What is watched, and how its objects are decoded."""

    name: str
    path: str
    type: type[Any]
    metadata_only: bool = False
    field_selector: str = ""


RESOURCES = (
    Resource("pods", "/api/v1/pods", objects.Pod),
    Resource("services", "/api/v1/services", objects.Service),
    Resource("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices", objects.EndpointSlice),
    Resource("nodes", "/api/v1/nodes", objects.Node),
    Resource("namespaces", "/api/v1/namespaces", objects.OnlyMeta, True),
    Resource("replicasets", "/apis/apps/v1/replicasets", objects.OnlyMeta, True),
    Resource("jobs", "/apis/batch/v1/jobs", objects.OnlyMeta, True),
)


@dataclass(frozen=True, slots=True)
class Change:
    """What follows from the API server: an object put, an object gone, or the end of a list (`synced`)."""

    action: str
    kind: str
    uid: str = ""
    item: Any = None
    at: float = 0.0


class Response(Protocol):
    status: int

    def header(self, name: str) -> str: ...
    def chunks(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class Transport(Protocol):
    """HTTP with the cluster's credentials (identity/kubernetes.py); raises OSError when there is no answer."""

    def get(self, path: str, query: dict[str, str], *, metadata_only: bool, timeout_s: float) -> Response: ...
    def renew(self) -> None: ...


@dataclass(slots=True)
class Health:
    """What a watch has been through; read by metrics."""

    heard: float = 0.0
    synced: bool = False
    lists: int = 0
    errors: int = 0
    malformed: int = 0
    last_error: str = ""
    connected: bool = False


class _Refused(Exception):
    """The server said no. `wait_s`: what it asked for."""

    def __init__(self, status: int, text: str, wait_s: float = 0.0) -> None:
        super().__init__(f"{status} {text}")
        self.status = status
        self.wait_s = wait_s


def follow(
    resource: Resource,
    transport: Transport,
    health: Health,
    stop: threading.Event,
    *,
    clock: Callable[[], float] = time.time,
    jitter: Callable[[], float] = random.random,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> Iterator[Change]:
    """Changes of a resource until `stop`. Never raises for what the server or the network does."""
    known: set[str] = set()
    version = ""
    delay = FIRST_DELAY_S
    while not stop.is_set():
        try:
            if not version:
                version = yield from _list(resource, transport, health, known, clock)
                delay = FIRST_DELAY_S
            version = yield from _watch(resource, transport, health, known, version, stop, clock, idle_timeout_s)
            delay = FIRST_DELAY_S
            if version:
                # servers end watches as a matter of course; a moment keeps one that does so at once from being hammered
                stop.wait(FIRST_DELAY_S * jitter())
        except _Refused as refusal:
            health.errors += 1
            health.last_error = str(refusal)
            if refusal.status == 410:
                version = ""  # too old: list anew; what is known stays known meanwhile
                continue
            if refusal.status == 401:
                transport.renew()
            stop.wait(refusal.wait_s or delay * (0.5 + jitter()))
            delay = min(delay * 2, LAST_DELAY_S)
        except (OSError, msgspec.MsgspecError) as error:
            health.errors += 1
            health.last_error = f"{type(error).__name__}: {error}"
            stop.wait(delay * (0.5 + jitter()))
            delay = min(delay * 2, LAST_DELAY_S)


def _list(
    resource: Resource, transport: Transport, health: Health, known: set[str], clock: Callable[[], float]
) -> Generator[Change, None, str]:
    """All objects in pages, then the deletions they imply. Returns the version to watch from."""
    decoder = msgspec.json.Decoder(objects.RawList)
    present: set[str] = set()
    version, following = "", ""
    for _ in range(MAX_PAGES):
        query = {"limit": str(PAGE)}
        if resource.field_selector:
            query["fieldSelector"] = resource.field_selector
        if following:
            query["continue"] = following
        page = decoder.decode(
            _body(transport.get(resource.path, query, metadata_only=resource.metadata_only, timeout_s=60))
        )
        health.heard = clock()
        for raw in page.items or []:
            item = _object(resource, raw, health)
            if item is not None:
                present.add(item.metadata.uid)
                known.add(item.metadata.uid)
                yield Change("put", resource.name, item.metadata.uid, item, clock())
        version = page.metadata.resource_version or version
        following = page.metadata.continue_ or ""
        if not following:
            break
    for uid in known - present:
        known.discard(uid)
        yield Change("remove", resource.name, uid, None, clock())
    health.lists += 1
    health.synced = True
    yield Change("synced", resource.name, at=clock())
    return version


def _watch(
    resource: Resource,
    transport: Transport,
    health: Health,
    known: set[str],
    version: str,
    stop: threading.Event,
    clock: Callable[[], float],
    idle_timeout_s: float,
) -> Generator[Change, None, str]:
    """Events from `version` on. Returns the version to go on from when the stream ends."""
    query = {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(WATCH_SECONDS),
    }
    if resource.field_selector:
        query["fieldSelector"] = resource.field_selector
    response = transport.get(resource.path, query, metadata_only=resource.metadata_only, timeout_s=idle_timeout_s)
    _check(response)
    health.connected = True
    decoder = msgspec.json.Decoder(objects.RawEvent)
    try:
        for line in _lines(response.chunks()):
            health.heard = clock()
            try:
                event = decoder.decode(line)
            except msgspec.MsgspecError:
                health.malformed += 1
                continue
            if event.type == "ERROR":
                raise _error(event)
            item = _object(resource, event.object, health)
            if item is None:
                continue
            version = item.metadata.resource_version or version
            uid = item.metadata.uid
            if event.type == "DELETED":
                known.discard(uid)
                yield Change("remove", resource.name, uid, item, clock())
            elif event.type in ("ADDED", "MODIFIED"):
                known.add(uid)
                yield Change("put", resource.name, uid, item, clock())
            if stop.is_set():
                return version
    except OSError as error:
        # cut or silent: what came whole has been told, so the watch goes on from there
        health.errors += 1
        health.last_error = f"{type(error).__name__}: {error}"
    finally:
        health.connected = False
        response.close()
    return version


def _object(resource: Resource, raw: msgspec.Raw, health: Health) -> Any:
    """The slim object, or None (counted) for one that makes no sense."""
    try:
        item = msgspec.json.decode(raw, type=resource.type)
    except (msgspec.MsgspecError, RecursionError):
        health.malformed += 1
        return None
    if not item.metadata.uid and not item.metadata.resource_version:
        health.malformed += 1
        return None
    return item


def _error(event: objects.RawEvent) -> _Refused:
    try:
        status = msgspec.json.decode(event.object, type=objects.Status)
    except msgspec.MsgspecError:
        return _Refused(500, "unreadable error event")
    return _Refused(status.code or 500, status.reason or status.message)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines of a stream; an unfinished last one is dropped. Raises OSError for a line without end."""
    rest = bytearray()
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            line = bytes(rest) + chunk[start:end] if rest else chunk[start:end]
            rest.clear()
            start = end + 1
            if line.strip():
                yield line
        rest += chunk[start:]
        if len(rest) > MAX_LINE_BYTES:
            raise OSError(f"a line longer than {MAX_LINE_BYTES} bytes")


def _check(response: Response) -> None:
    """Raises _Refused unless the answer is 200."""
    if response.status == 200:
        return
    wait_s = 0.0
    after = response.header("Retry-After")
    if after.isdigit():
        wait_s = min(float(after), LAST_DELAY_S)
    response.close()
    raise _Refused(response.status, "", wait_s)


def _body(response: Response) -> bytes:
    _check(response)
    try:
        return b"".join(response.chunks())
    finally:
        response.close()
