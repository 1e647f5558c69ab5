"""Connections to agents and relays: the local socket, --server, a cluster by kubeconfig; else an agent of our own."""

from __future__ import annotations

import contextlib
import heapq
import json
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import grpc

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.cli import options
from sidelight.cli.rates import merge_edges
from sidelight.exporter.detail import DETAIL
from sidelight.exporter.map import merge_views
from sidelight.exporter.proto import observer_pb2, observer_pb2_grpc, sidelight_pb2, sidelight_pb2_grpc

MAX_MESSAGE = 64 << 20
_OPTIONS = (("grpc.max_receive_message_length", MAX_MESSAGE),)


@dataclass(slots=True)
class Client:
    """One or several servers. Flows of several are merged by time."""

    channels: list[tuple[str, grpc.Channel]]
    interrupted: bool = False
    _calls: list[grpc.Call] = field(default_factory=list)

    @contextlib.contextmanager
    def until_interrupted(self) -> Iterator[None]:
        """Ctrl-C ends the streams and sets `interrupted`; a second one raises KeyboardInterrupt.

        An exception out of a signal can be swallowed where it strikes, in a callback of the library for one; a cancelled call cannot.
        """

        def end(*_: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            # on a thread: the one that was interrupted may hold the call's locks
            threading.Thread(target=self._cancel, daemon=True).start()

        before = signal.signal(signal.SIGINT, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _cancel(self) -> None:
        for call in self._calls:
            call.cancel()

    def flows(self, request: observer_pb2.GetFlowsRequest) -> Iterator[observer_pb2.GetFlowsResponse]:
        """GetFlows of all servers. Raises SidelightError with the server's own words."""
        streams = [self._stream(name, channel, request) for name, channel in self.channels]
        if len(streams) == 1:
            yield from streams[0]
        elif request.follow:
            yield from _interleave(streams)
        else:
            yield from heapq.merge(*streams, key=lambda r: (r.time.seconds, r.time.nanos))

    def _stream(self, name: str, channel: grpc.Channel, request: Any) -> Iterator[Any]:
        call = observer_pb2_grpc.ObserverStub(channel).GetFlows(request, metadata=(DETAIL,))
        self._calls.append(call)
        if self.interrupted:
            call.cancel()
        try:
            yield from call
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:
                return
            problem = SidelightError(f"{name}: {error.details() or error.code().name}")
            if len(self.channels) == 1 or error.code() != grpc.StatusCode.UNAVAILABLE:
                raise problem from None
            click.echo(f"sidelight: without node {problem}", err=True)

    def query(self, kind: str, argument: str = "") -> dict[str, Any]:
        """A document (exporter/queries.py) of all servers: those that can be added up are, else the first one's. Raises SidelightError."""
        merge = _MERGES.get(kind)
        documents = [document for _, document in self.query_each(_PARTS.get(kind, kind), argument)]
        return merge(documents) if merge else documents[0]

    def query_each(self, kind: str, argument: str = "") -> list[tuple[str, dict[str, Any]]]:
        """(server, its document) of each server that answers; one that is away among several is said. Raises SidelightError."""
        found = []
        for name, channel in self.channels:
            try:
                found.append((name, self._query(name, channel, kind, argument)))
            except SidelightError as error:
                if len(self.channels) == 1:
                    raise
                click.echo(f"sidelight: without node {error}", err=True)
        if not found:
            raise SidelightError("no server answers")
        return found

    def query_one(self, name: str, kind: str, argument: str) -> dict[str, Any]:
        """The document of one server. Raises SidelightError."""
        return self._query(name, dict(self.channels)[name], kind, argument)

    def _query(self, name: str, channel: grpc.Channel, kind: str, argument: str) -> dict[str, Any]:
        try:
            answer = sidelight_pb2_grpc.AgentStub(channel).Query(
                sidelight_pb2.QueryRequest(kind=kind, argument=argument), timeout=15
            )
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                raise SidelightError(
                    f"{name} is not a Sidelight agent: it has flows (`tail`) but no `{kind}`"
                ) from None
            raise SidelightError(f"{name}: {error.details() or error.code().name}") from None
        document: dict[str, Any] = json.loads(answer.json)
        return document

    def close(self) -> None:
        for _, channel in self.channels:
            channel.close()


_PARTS = {"map": "views"}
"""Questions that several servers answer in parts."""
_MERGES: dict[str, Callable[[list[dict[str, Any]]], dict[str, Any]]] = {"map": merge_views, "edges": merge_edges}


def _interleave(streams: list[Iterator[Any]]) -> Iterator[Any]:
    """As they come: streams that never end cannot be sorted."""
    arrived: queue.Queue[Any] = queue.Queue(maxsize=10_000)
    done = object()

    def pump(stream: Iterator[Any]) -> None:
        try:
            for item in stream:
                arrived.put(item)
        except SidelightError as error:
            arrived.put(error)
        arrived.put(done)

    for stream in streams:
        threading.Thread(target=pump, args=(stream,), daemon=True).start()
    left = len(streams)
    while left:
        item = arrived.get()
        if item is done:
            left -= 1
        elif isinstance(item, SidelightError):
            click.echo(f"sidelight: {item}", err=True)
        else:
            yield item


def open_channel(target: str, arguments: dict[str, Any]) -> grpc.Channel:
    if not arguments.get("tls_ca"):
        return grpc.insecure_channel(target, options=_OPTIONS)

    def read(path: Path | None) -> bytes | None:
        return path.read_bytes() if path else None

    credentials = grpc.ssl_channel_credentials(
        arguments["tls_ca"].read_bytes(), read(arguments.get("tls_key")), read(arguments.get("tls_cert"))
    )
    return grpc.secure_channel(target, credentials, options=_OPTIONS)


def agent_running(socket_path: Path) -> bool:
    """Does an agent answer at the socket?"""
    if not socket_path.exists():
        return False
    channel = grpc.insecure_channel(f"unix:{socket_path}")
    try:
        grpc.channel_ready_future(channel).result(timeout=2)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


@contextlib.contextmanager
def connect(arguments: dict[str, Any], *, own_agent: bool = True) -> Iterator[Client]:
    """The servers that the arguments name; without any, the local agent; without one, an agent of our own (`own_agent`)."""
    with contextlib.ExitStack() as stack:
        targets = [(server, server) for server in arguments.get("servers") or ()]
        if arguments.get("kube_context"):
            from sidelight.cli.forward import forward

            port = stack.enter_context(forward(arguments["kube_context"], arguments["relay"]))
            targets.append((arguments["relay"], f"127.0.0.1:{port}"))
        if not targets:
            socket_path = options.socket_of(arguments.get("socket_path"), arguments["instance"])
            if not agent_running(socket_path):
                if not own_agent:
                    raise ConfigError(f"no agent answers at {socket_path}: start one with `sidelight agent`")
                socket_path = stack.enter_context(_own_agent(arguments))
            targets.append((str(socket_path), f"unix:{socket_path}"))
        client = Client([(name, open_channel(target, arguments)) for name, target in targets])
        stack.callback(client.close)
        yield client


@contextlib.contextmanager
def _own_agent(arguments: dict[str, Any]) -> Iterator[Path]:
    from sidelight.agent.loader import DEFAULT_BPFFS
    from sidelight.agent.settings import AgentSettings
    from sidelight.cli.runtime import temporary, temporary_instance

    cgroup, root = options.check_machine(arguments.get("cgroup"), arguments.get("bpffs") or DEFAULT_BPFFS)
    click.echo(f"no agent runs: observing {cgroup} for the length of this command", err=True)
    settings = AgentSettings(
        cgroup=cgroup,
        cgroup_root=root,
        instance=temporary_instance("cli"),
        keep_state=False,
    )
    with temporary(settings) as socket_path:
        yield socket_path
