"""An agent with all its ways out, started and stopped in order. Used by `agent`, by `demo` and by commands without an agent."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidelight.agent import loader
from sidelight.agent.core import Agent
from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.agent.settings import AgentSettings, default_socket
from sidelight.exporter.catalog import DEFAULT_GROUPS
from sidelight.exporter.families import FamilyOptions
from sidelight.exporter.hubble import HubbleServer, TlsFiles

if TYPE_CHECKING:
    from sidelight.exporter.otlp import OtlpExporter
    from sidelight.exporter.verify.sessions import Sessions
    from sidelight.exporter.web import WebServer
    from sidelight.identity.kubernetes import KubernetesIndex

log = logging.getLogger("sidelight")


class Runtime:
    """All parts of a running agent. start() raises SidelightError and leaves nothing half-started."""

    def __init__(self, settings: AgentSettings, values: dict[str, Any] | None = None) -> None:
        self.settings = settings
        self.values = values or {}
        self.web: WebServer | None = None
        self.hubble: HubbleServer | None = None
        self.otlp: OtlpExporter | None = None
        self.index: KubernetesIndex | None = None
        self.agent: Agent

    def family_options(self) -> FamilyOptions:
        groups = self.values.get("groups") or DEFAULT_GROUPS
        return FamilyOptions(
            groups=frozenset({*groups, "self"}),
            max_edges=self.values.get("max_edges", 5000),
            ttl_s=self.values.get("series_ttl", 900.0),
            istio_cluster=self.settings.cluster or "Kubernetes",
        )

    def start(self) -> None:
        settings = self.settings
        self.agent = Agent(settings)
        self.agent.load_programs()
        if settings.kubernetes:
            try:
                self.index = self.agent.index = self._connect()
            except ConfigError:
                self.agent.forgo()
                raise
        try:
            if self.index:
                self.index.start()
            self.agent.start()
            self._start_exporters()
        except SidelightError:
            self.stop(detach=False)
            raise
        load = self.agent.load
        log.info(
            "observing %s as instance %s (programs %s%s)",
            settings.cgroup, settings.instance, load.status, ", compiled" if load.compiled else "",
        )  # fmt: skip
        if load.status == "restarted":
            log.warning("the layout of the kernel's maps changed: counting starts anew")

    def _connect(self) -> KubernetesIndex:
        from sidelight.identity.kubernetes import ClusterUnreachable, KubernetesIndex

        settings = self.settings
        try:
            return KubernetesIndex.connect(
                kubeconfig=settings.kubeconfig,
                node=settings.node,
                cluster=settings.cluster,
                scope=settings.identity_scope,
                metric_labels=settings.metric_labels,
                tombstone_s=settings.tombstone_s,
            )
        except ClusterUnreachable as error:
            raise ConfigError(f"Kubernetes: {error}; or say --no-kube") from None

    def _start_exporters(self) -> None:
        values = self.values
        socket_path = values.get("socket_path") or default_socket(self.settings.instance, self.settings.state)
        tls = None
        if values.get("tls_cert") and values.get("tls_key"):
            tls = TlsFiles(values["tls_cert"], values["tls_key"], values.get("tls_client_ca"))
        if values.get("otlp"):
            from sidelight.exporter.otlp import OtlpExporter

            self.otlp = OtlpExporter(self.agent, self.family_options())
        self.hubble = HubbleServer(
            self.agent,
            socket_path,
            f"{self.settings.cluster or 'default'}/{self.settings.node}"
            if self.settings.cluster
            else self.settings.node,
            listen=values.get("hubble_listen", ""),
            tls=tls,
            plaintext=values.get("hubble_plaintext", False),
            advertise=values.get("hubble_advertise", ""),
            peers=self._peers(values.get("hubble_listen", "")),
        )
        listen = values.get("metrics_listen", "off")
        if listen != "off":
            from sidelight.exporter.web import Renderer, WebServer

            exemplars = self.otlp.exemplars if self.otlp else None
            renderer = Renderer(self.agent, self.family_options(), exemplars)
            self.web = WebServer(
                self.agent,
                renderer,
                listen,
                map_anywhere=values.get("map_anywhere", False),
                sessions=self._sessions(),
            )

    def _sessions(self) -> Sessions:
        """/verify of this node's pods."""
        from sidelight.exporter.queries import QUERIES
        from sidelight.exporter.verify.agents import Agents
        from sidelight.exporter.verify.sessions import Sessions, read_token

        def ask(argument: str) -> dict[str, Any]:
            try:
                return QUERIES["closeup"](self.agent, argument)
            except ValueError as error:
                raise SidelightError(str(error)) from None

        node = self.settings.node
        return Sessions(
            lambda arms, settings: Agents([(node, ask)], arms, settings.slower_than_s),
            read_token(self.values.get("verify_token_file")),
        )

    def _peers(self, listen: str) -> Callable[[], dict[str, str]] | None:
        """For a relay: every node of the cluster, each with an agent at its own address and our port (one DaemonSet)."""
        index, port = self.index, listen.rpartition(":")[2]
        if index is None or not port:
            return None
        prefix = f"{self.settings.cluster}/" if self.settings.cluster else ""

        def peers() -> dict[str, str]:
            return {
                prefix + name: f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                for name, address in index.node_addresses().items()
            }

        return peers

    @property
    def listings(self) -> int:
        """Listings of the cluster's objects so far."""
        return sum(state.lists for state in self.index.health.values()) if self.index else 0

    def reload_if_changed(self) -> None:
        """Takes in what can be changed while running, when the configuration file has changed."""
        from sidelight.cli.config import reloaded_capture

        capture = reloaded_capture(self.values, self.settings.capture)
        if capture is not None:
            self.agent.reconfigure(capture)
            log.info("configuration read again")

    def stop(self, detach: bool) -> None:
        for part in (self.web, self.otlp, self.hubble, self.index):
            if part is not None:
                part.stop()
        if hasattr(self, "agent") and hasattr(self.agent, "_thread"):
            self.agent.stop()
        if detach:
            loader.unload(self.settings.instance, self.settings.bpffs)


@contextlib.contextmanager
def temporary(settings: AgentSettings) -> Iterator[Path]:
    """An agent for the length of one command: the path of its socket. Leaves nothing behind."""
    import shutil

    runtime = Runtime(settings)
    runtime.start()
    try:
        yield default_socket(settings.instance, settings.state)
    finally:
        runtime.stop(detach=True)
        shutil.rmtree(settings.state / settings.instance, ignore_errors=True)


def temporary_instance(prefix: str) -> str:
    return f"{prefix}-{os.getpid()}"
