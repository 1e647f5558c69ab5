"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sidelight.agent.loader import DEFAULT_BPFFS, Sizes, cgroup2_root, check_bpffs, check_capabilities, check_cgroup
from sidelight.agent.settings import STATE_ROOT, default_socket

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def chain(*decorators: Decorator) -> Decorator:
    """Several options as one."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


instance_option = click.option(
    "--instance", default="default", show_default=True, metavar="NAME", envvar="SIDELIGHT_INSTANCE",
    help="Keeps pins, state and socket of several agents on one machine apart.",
)  # fmt: skip
cgroup_option = click.option(
    "--cgroup", type=click.Path(path_type=Path), default=None, metavar="PATH", envvar="SIDELIGHT_CGROUP",
    help="Observe this cgroup2 directory and what is below it only. Default: all, the cgroup2 root.",
)  # fmt: skip
bpffs_option = click.option(
    "--bpffs", type=click.Path(path_type=Path), default=DEFAULT_BPFFS, show_default=True, metavar="PATH",
    envvar="SIDELIGHT_BPFFS", help="Where bpffs is mounted.",
)  # fmt: skip
socket_option = click.option(
    "--socket", "socket_path", type=click.Path(path_type=Path), default=None, metavar="PATH",
    envvar="SIDELIGHT_SOCKET", help="The agent's socket. Default: in the instance's state directory.",
)  # fmt: skip
connection_options = chain(
    instance_option,
    socket_option,
    click.option("--server", "servers", multiple=True, metavar="HOST:PORT",
                 help="An agent or a Hubble relay to ask instead of the local agent; repeat for several."),
    click.option("--tls-ca", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="CA of the servers: use TLS."),
    click.option("--tls-cert", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="Client certificate."),
    click.option("--tls-key", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="Its key."),
    click.option("--context", "kube_context", default=None, metavar="NAME",
                 help="A cluster of the kubeconfig: port-forward to its Hubble relay (or --relay NAMESPACE/SERVICE)."),
    click.option("--relay", default="kube-system/hubble-relay", show_default=True, metavar="NAMESPACE/SERVICE",
                 help="With --context: what to forward to."),
)  # fmt: skip


def sizes_of(edges: int, ring_pages: int, operations: int = Sizes().operations) -> Sizes:
    return Sizes(edges=edges, latencies=edges, ring_bytes=ring_pages * 4096, operations=operations)


def require_root() -> None:
    """Raises UnsupportedFeature unless the process has the rights that loading takes."""
    check_capabilities()


def check_machine(cgroup: Path | None, bpffs: Path) -> tuple[Path, Path]:
    """(cgroup to observe, cgroup2 root) after the checks a user should hear about first."""
    require_root()
    cgroup = cgroup.resolve() if cgroup else None
    root = cgroup2_root(cgroup)
    check_bpffs(bpffs)
    return check_cgroup(cgroup or root), root


def socket_of(socket_path: Path | None, instance: str) -> Path:
    return socket_path or default_socket(instance, STATE_ROOT)
