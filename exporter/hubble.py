"""Hubble's observer and peer API, and Sidelight's own questions, over gRPC.

Every follower reads the ring at its own pace; what it is too slow for is told to it as lost events. Nothing a client does
holds up the capture.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sidelight import __version__
from sidelight.agent.core import Agent
from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.agent.flows import FlowBatch
from sidelight.exporter.detail import DETAIL
from sidelight.exporter.field_mask import MaskError, Tree, apply_mask, mask_tree
from sidelight.exporter.filters import FilterError, Predicate, compile_filters
from sidelight.exporter.hubble_flow import hubble_flow
from sidelight.exporter.proto import (
    flow_pb2,
    observer_pb2,
    observer_pb2_grpc,
    peer_pb2,
    peer_pb2_grpc,
    relay_pb2,
    sidelight_pb2,
    sidelight_pb2_grpc,
)
from sidelight.exporter.queries import QUERIES

log = logging.getLogger("sidelight.hubble")

MAX_STREAMS = 96
CONVERTED_BATCHES = 64
POLL_S = 0.5
HEADERS = (("hubble-server-version", __version__), ("server", "sidelight"))


class Converter:
    """Flows of a batch in Hubble's form, made once for all followers: the last few batches are kept."""

    def __init__(self, node_name: str) -> None:
        self._node = node_name
        self._lock = threading.Lock()
        self._made: OrderedDict[int, tuple[FlowBatch, list[flow_pb2.Flow]]] = OrderedDict()

    def flows(self, first: int, batch: FlowBatch) -> list[flow_pb2.Flow]:
        with self._lock:
            found = self._made.get(first)
        if found is not None and found[0] is batch:
            return found[1]
        made = [hubble_flow(batch.flow(i, first + i), self._node) for i in range(len(batch))]
        with self._lock:
            self._made[first] = (batch, made)
            while len(self._made) > CONVERTED_BATCHES:
                self._made.popitem(last=False)
        return made


@dataclass(frozen=True, slots=True)
class _Selection:
    wanted: Predicate
    mask: Tree
    since_ns: int
    until_ns: int
    detail: bool
    """The caller reads sidelight.v1.FlowDetail."""


class Observer(observer_pb2_grpc.ObserverServicer):
    """observer.Observer."""

    def __init__(self, agent: Agent, node_name: str, address: str = "", tls: bool = False) -> None:
        self._agent, self._node, self._address, self._tls = agent, node_name, address, tls
        self._ring = agent.flows
        self._converter = Converter(node_name)
        self._started = time.monotonic()

    # -- flows ---------------------------------------------------------------------------------------------------

    def GetFlows(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        selection = self._selection(request, context)
        context.send_initial_metadata(HEADERS)
        if request.first and request.follow:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "first cannot be used with follow")
        position = self._ring.seen
        if request.first:
            yield from self._first(request.number, selection)
            return
        if request.number and not request.HasField("since"):
            yield from self._last(min(request.number, 1 << 31), selection, position)
        elif not request.follow or request.HasField("since"):
            yield from self._between(0, position, selection, context)
        if request.follow:
            yield from self._follow(position, selection, context)

    def _selection(self, request: Any, context: grpc.ServicerContext) -> _Selection:
        try:
            wanted = compile_filters(request.whitelist, request.blacklist)
            paths = list(request.field_mask.paths) or list(request.experimental.field_mask.paths)
            mask = mask_tree(paths, flow_pb2.Flow.DESCRIPTOR)  # type: ignore[arg-type]
            since = _nanoseconds(request, "since", 0)
            until = _nanoseconds(request, "until", 1 << 63)
        except FilterError as error:
            code = grpc.StatusCode.UNIMPLEMENTED if error.unsupported else grpc.StatusCode.INVALID_ARGUMENT
            context.abort(code, str(error))
            raise AssertionError from None
        except (MaskError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError from None
        return _Selection(wanted, mask, since, until, DETAIL in map(tuple, context.invocation_metadata()))

    def _chosen(self, first: int, batch: FlowBatch, selection: _Selection) -> Iterator[flow_pb2.Flow]:
        if not len(batch) or batch.times_ns[-1] < selection.since_ns or batch.times_ns[0] > selection.until_ns:
            return
        for index, flow in enumerate(self._converter.flows(first, batch)):
            at = int(batch.times_ns[index])
            if selection.since_ns <= at <= selection.until_ns and selection.wanted(flow):
                yield flow

    def _first(self, number: int, selection: _Selection) -> Iterator[Any]:
        left = number or 1 << 62
        batches, _, _ = self._ring.read(0)
        for first, batch in batches:
            for flow in self._chosen(first, batch, selection):
                yield self._response(flow, selection)
                left -= 1
                if not left:
                    return

    def _last(self, number: int, selection: _Selection, until: int) -> Iterator[Any]:
        found: list[flow_pb2.Flow] = []
        batches, _, _ = self._ring.read(0)
        for first, batch in reversed(batches):
            if first < until:
                found += list(self._chosen(first, batch, selection))[::-1]
            if len(found) >= number:
                break
        for flow in found[:number][::-1]:
            yield self._response(flow, selection)

    def _between(self, start: int, end: int, selection: _Selection, context: grpc.ServicerContext) -> Iterator[Any]:
        batches, _, _ = self._ring.read(start)
        for first, batch in batches:
            if first >= end or not context.is_active():
                return
            for flow in self._chosen(first, batch, selection):
                yield self._response(flow, selection)

    def _follow(self, position: int, selection: _Selection, context: grpc.ServicerContext) -> Iterator[Any]:
        while context.is_active() and not self._ring.closed:
            batches, following, missed = self._ring.read(position, POLL_S)
            if missed:
                yield self._lost(missed)
            for first, batch in batches:
                # a reader that a batch takes long for may have been overtaken meanwhile
                if first + len(batch) <= self._ring.oldest:
                    yield self._lost(len(batch))
                    continue
                for flow in self._chosen(first, batch, selection):
                    yield self._response(flow, selection)
            position = following
            if time.time_ns() > selection.until_ns:
                return

    def _response(self, flow: flow_pb2.Flow, selection: _Selection) -> Any:
        if selection.mask:
            masked = flow_pb2.Flow()
            masked.CopyFrom(flow)
            apply_mask(masked, selection.mask)
            response = observer_pb2.GetFlowsResponse(flow=masked, node_name=self._node)
        else:
            response = observer_pb2.GetFlowsResponse(flow=flow, node_name=self._node)
        response.time.CopyFrom(flow.time)
        if not selection.detail:
            response.flow.ClearField("extensions")
        return response

    def _lost(self, count: int) -> Any:
        response = observer_pb2.GetFlowsResponse(
            lost_events=flow_pb2.LostEvent(source=flow_pb2.HUBBLE_RING_BUFFER, num_events_lost=count),
            node_name=self._node,
        )
        response.time.GetCurrentTime()
        return response

    # -- the rest ------------------------------------------------------------------------------------------------

    def ServerStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.send_initial_metadata(HEADERS)
        held = self._ring.seen - self._ring.oldest
        uptime = time.monotonic() - self._started
        response = observer_pb2.ServerStatusResponse(
            num_flows=held,
            max_flows=self._ring.capacity,
            seen_flows=self._ring.seen,
            uptime_ns=int(uptime * 1e9),
            version=f"sidelight {__version__}",
            flows_rate=self._ring.seen / uptime if uptime else 0.0,
        )
        response.num_connected_nodes.value = 1
        response.num_unavailable_nodes.value = 0
        return response

    def GetNodes(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.send_initial_metadata(HEADERS)
        held = self._ring.seen - self._ring.oldest
        node = observer_pb2.Node(
            name=self._node,
            version=f"sidelight {__version__}",
            address=self._address,
            state=relay_pb2.NODE_CONNECTED,
            uptime_ns=int((time.monotonic() - self._started) * 1e9),
            num_flows=held,
            max_flows=self._ring.capacity,
            seen_flows=self._ring.seen,
        )
        node.tls.enabled = self._tls
        return observer_pb2.GetNodesResponse(nodes=[node])

    def GetNamespaces(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.send_initial_metadata(HEADERS)
        found: set[tuple[str, str]] = set()
        batches, _, _ = self._ring.read(0)
        for _, batch in batches:
            for names in batch.names:
                for identity in (names.local, names.remote):
                    if identity.namespace:
                        found.add((identity.cluster, identity.namespace))
        return observer_pb2.GetNamespacesResponse(
            namespaces=[observer_pb2.Namespace(cluster=c, namespace=n) for c, n in sorted(found)]
        )

    def GetAgentEvents(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "these are events of the Cilium agent; Sidelight has none")
        yield

    def GetDebugEvents(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "these are events of Cilium's datapath; Sidelight has none")
        yield


def _nanoseconds(request: Any, field: str, default: int) -> int:
    if not request.HasField(field):
        return default
    stamp = getattr(request, field)
    if not -62135596800 <= stamp.seconds <= 253402300799 or not 0 <= stamp.nanos < 10**9:
        raise ValueError(f"{field}: not a time")
    total: int = stamp.seconds * 10**9 + stamp.nanos
    return total


def tls_server_name(peer: str) -> str:
    """The name a peer's certificate must have: as Cilium's agents tell theirs, so one wildcard certificate a cluster does."""
    cluster, _, node = peer.rpartition("/")
    return f"{node.replace('.', '-')}.{cluster.replace('.', '-') or 'default'}.hubble-grpc.cilium.io"


class Peers(peer_pb2_grpc.PeerServicer):
    """peer.Peer: this agent as its only peer, or the nodes a function tells."""

    def __init__(
        self, name: str, address: str, tls: bool = False, others: Callable[[], dict[str, str]] | None = None
    ) -> None:
        self._name, self._address, self._tls = name, address, tls
        self._others = others or (lambda: {name: address})

    def Notify(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        known: dict[str, str] = {}
        while context.is_active():
            now = self._others()
            for name, address in now.items():
                if known.get(name) != address:
                    kind = peer_pb2.PEER_UPDATED if name in known else peer_pb2.PEER_ADDED
                    yield self._change(name, address, kind)
            for name in known.keys() - now.keys():
                yield self._change(name, known[name], peer_pb2.PEER_DELETED)
            known = dict(now)
            for _ in range(10):
                if not context.is_active():
                    return
                time.sleep(POLL_S)

    def _change(self, name: str, address: str, kind: peer_pb2.ChangeNotificationType) -> Any:
        change = peer_pb2.ChangeNotification(name=name, address=address, type=kind)
        if self._tls:
            change.tls.server_name = tls_server_name(name)
        return change


class Questions(sidelight_pb2_grpc.AgentServicer):
    """sidelight.v1.Agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def Query(self, request: Any, context: grpc.ServicerContext) -> Message:
        answer = QUERIES.get(request.kind)
        if answer is None:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"unknown query {request.kind[:40]!r}; known: {', '.join(sorted(QUERIES))}",
            )
        assert answer is not None
        try:
            document = answer(self._agent, request.argument)
        except (ValueError, SidelightError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return sidelight_pb2.QueryResponse(json=json.dumps(document).encode())


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; with `client_ca` clients have to show a certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow their files: read again when one has changed."""

    def read() -> grpc.ServerCertificateConfiguration:
        chain = [(files.key.read_bytes(), files.certificate.read_bytes())]
        return grpc.ssl_server_certificate_configuration(
            chain, root_certificates=files.client_ca.read_bytes() if files.client_ca else None
        )

    def stamp() -> tuple[int, ...]:
        paths = [files.certificate, files.key, *([files.client_ca] if files.client_ca else [])]
        return tuple(path.stat().st_mtime_ns for path in paths)

    try:
        current = [stamp()]
        initial = read()
    except OSError as error:
        raise ConfigError(f"cannot read TLS files: {error}") from None

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        try:
            now = stamp()
            if now == current[0]:
                return None
            fresh = read()
        except OSError as error:
            log.warning("TLS files cannot be read, the old ones stay: %s", error)
            return None
        current[0] = now
        return fresh

    return grpc.dynamic_ssl_server_credentials(
        initial,
        fetch,  # type: ignore[arg-type]  # None means: no change
        require_client_authentication=files.client_ca is not None,
    )


class HubbleServer:
    """The gRPC server. Raises ConfigError when an address is taken."""

    def __init__(
        self,
        agent: Agent,
        socket_path: Path,
        node_name: str,
        *,
        listen: str = "",
        tls: TlsFiles | None = None,
        plaintext: bool = False,
        advertise: str = "",
        peers: Callable[[], dict[str, str]] | None = None,
    ) -> None:
        if listen and not tls and not plaintext:
            raise ConfigError("--hubble-listen without TLS: give --tls-cert and --tls-key, or --hubble-plaintext")
        self._socket = socket_path
        executor = ThreadPoolExecutor(max_workers=MAX_STREAMS, thread_name_prefix="grpc")
        self._server = grpc.server(
            executor,
            maximum_concurrent_rpcs=MAX_STREAMS,
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 1 << 20)),
        )
        address = advertise or listen
        observer_pb2_grpc.add_ObserverServicer_to_server(
            Observer(agent, node_name, address, tls is not None), self._server
        )
        peer_pb2_grpc.add_PeerServicer_to_server(Peers(node_name, address, tls is not None, peers), self._server)
        sidelight_pb2_grpc.add_AgentServicer_to_server(Questions(agent), self._server)
        self.health = health.HealthServicer()
        for service in ("", "hubble.server.Observer", "observer.Observer"):
            self.health.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        reflection.enable_server_reflection(
            ("observer.Observer", "peer.Peer", "sidelight.v1.Agent", health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._server,
        )
        self.port = 0
        try:
            socket_path.unlink(missing_ok=True)
            self._server.add_insecure_port(f"unix:{socket_path}")
            if listen:
                self.port = (
                    self._server.add_secure_port(listen, _credentials(tls))
                    if tls
                    else self._server.add_insecure_port(listen)
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"cannot listen on {listen or socket_path}: {error}") from None
        self._server.start()
        try:
            socket_path.chmod(0o660)
        except OSError as error:
            raise ConfigError(f"cannot make the socket {socket_path}: {error.strerror}") from None

    def stop(self, grace_s: float = 0.5) -> None:
        self._server.stop(grace_s).wait()
        self._socket.unlink(missing_ok=True)
