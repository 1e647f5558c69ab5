"""What the agent is told, and the state directory of an instance."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

from sidelight.agent.errors import ConfigError, SidelightError
from sidelight.agent.flows import DEFAULT_RING_BYTES
from sidelight.agent.loader import DEFAULT_BPFFS, Sizes

STATE_ROOT = Path(os.environ.get("SIDELIGHT_STATE", "/run/sidelight"))


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """What the programs do; becomes struct settings. Rates are events a second and CPU."""

    slow_ns: int = 500_000_000
    sample_period: int = 1
    ordinary_rate: int = 250
    priority_rate: int = 250
    connection_rate: int = 250
    payload_rate: int = 250
    events: bool = True
    head_text: bool = True
    l7: bool = True
    routes: int = 0
    """HTTP routes as operations: bits FOLD and TEMPLATES of agent/routes.py."""
    query_text: bool = False
    """Events of SQL have their statement, masked (agent/sql.py)."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """All an agent needs to know. `cgroup` is below a cgroup2 mount; identity settings apply with Kubernetes only."""

    cgroup: Path
    cgroup_root: Path
    instance: str = "default"
    bpffs: Path = DEFAULT_BPFFS
    state: Path = STATE_ROOT
    sizes: Sizes = field(default_factory=Sizes)
    capture: CaptureSettings = CaptureSettings()
    interval_s: float = 1.0
    poll_s: float = 0.25
    """Between readings of the event ring at most: sooner when it fills. As long as flows wait for news (attribute.SETTLE_S)."""
    ring_bytes: int = DEFAULT_RING_BYTES
    cluster: str = ""
    node: str = ""
    kubernetes: bool = False
    kubeconfig: str = ""
    identity_scope: str = "cluster"
    tombstone_s: float = 300.0
    metric_labels: tuple[str, ...] = ()
    cidrs: dict[str, str] = field(default_factory=dict)
    external_suffixes: tuple[str, ...] = ()
    http_routes: tuple[str, ...] = ()
    """Templates of agent/routes.py."""
    conntrack: str | None = None
    """Network namespace whose connection tracking is followed: a name or path, "" for our own, None for none."""
    cpu_budget: float = 0.0
    memory_budget: int = 0
    keep_state: bool = True
    """False: totals begin at zero and are not written down (an in-process agent of the command line)."""


class StateDirectory:
    """The instance's directory, owned by one agent at a time."""

    def __init__(self, root: Path, instance: str) -> None:
        self.path = root / instance
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot use the state directory {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise SidelightError(
                f"another agent (pid {owner or 'unknown'}) runs as instance {instance}; "
                "use its socket, or another --instance"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    def release(self) -> None:
        os.close(self._lock)


def default_socket(instance: str, root: Path = STATE_ROOT) -> Path:
    return root / instance / "sidelight.sock"
