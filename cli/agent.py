"""`sidelight agent`: the agent of a node."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import click

from sidelight.agent.errors import ConfigError
from sidelight.agent.routes import FOLD, TEMPLATES
from sidelight.agent.settings import STATE_ROOT, AgentSettings, CaptureSettings
from sidelight.cli import options
from sidelight.cli.heap import Heap

log = logging.getLogger("sidelight")

METRIC_GROUPS = ("http", "rpc", "db", "tcp", "dns", "istio", "servicegraph", "hubble")


@click.command("agent", context_settings={"auto_envvar_prefix": "SIDELIGHT"})
@options.cgroup_option
@options.instance_option
@options.bpffs_option
@options.socket_option
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="YAML; flags and SIDELIGHT_* variables win over it. See `sidelight config`.",
)
@click.option(
    "--metrics-listen",
    default="127.0.0.1:9464",
    show_default=True,
    metavar="HOST:PORT",
    help="Where /metrics, /healthz, /readyz and /map are served; `off` for nowhere.",
)
@click.option(
    "--metrics",
    "groups",
    multiple=True,
    type=click.Choice(METRIC_GROUPS),
    help="Families to show; repeat. Default: http, rpc, tcp and dns.",
)
@click.option(
    "--max-series",
    "max_edges",
    default=5000,
    show_default=True,
    help="Edges shown at most: the smallest beyond fold into `other`. 0: no limit.",
)
@click.option(
    "--series-ttl", default=900.0, show_default=True, metavar="SECONDS", help="Quiet edges are dropped after this time."
)
@click.option("--map/--no-map", "map_anywhere", default=False, help="Serve /map outside loopback too.")
@click.option(
    "--verify-token-file",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="Serve /verify outside loopback too, to who knows the token.",
)
@click.option(
    "--hubble-listen", default="", metavar="HOST:PORT", help="Serve the Hubble API on TCP too (4244 is usual)."
)
@click.option("--hubble-plaintext", is_flag=True, help="...without TLS.")
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate of the Hubble API; followed when it changes.",
)
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Clients must show a certificate of this CA.",
)
@click.option("--hubble-advertise", default="", metavar="HOST:PORT", help="Address that peers are told.")
@click.option("--otlp", is_flag=True, help="Send metrics and spans by OTLP; OTEL_* variables say where to.")
@click.option(
    "--http-route",
    "http_routes",
    multiple=True,
    metavar="TEMPLATE",
    help="Requests whose path fits are counted, and have spans, by this http.route: /users/{id}, /static/*; repeat. First match wins.",
)
@click.option(
    "--fold-http-routes",
    is_flag=True,
    help="Paths without a template are routes too: numbers, UUIDs, long hexadecimal and what contains @ fold to *.",
)
@click.option(
    "--query-text",
    is_flag=True,
    help="Flows and spans of PostgreSQL and MySQL have the statement's text, with ? for each literal.",
)
@click.option(
    "--max-operations",
    default=1024,
    show_default=True,
    metavar="N",
    help="HTTP routes that count apart; the rest counts without.",
)
@click.option(
    "--max-edges", "map_entries", default=16384, show_default=True, metavar="N", help="Entries of the kernel's maps."
)
@click.option(
    "--ring-pages",
    default=256,
    show_default=True,
    metavar="N",
    help="Pages of the kernel's event ring, a power of two.",
)
@click.option("--flow-memory", default=64, show_default=True, metavar="MB", help="Memory of the ring of flows.")
@click.option("--slow", default=0.5, show_default=True, metavar="SECONDS", help="Requests this slow are always events.")
@click.option(
    "--sample", default=1, show_default=True, metavar="N", help="One of N ordinary requests is an event; 0: none."
)
@click.option(
    "--event-rate", default=250, show_default=True, metavar="N", help="Events a second, CPU and class at most."
)
@click.option(
    "--interval", default=1.0, show_default=True, metavar="SECONDS", help="Between drains of the kernel's books."
)
@click.option(
    "--cpu-budget",
    default=0.0,
    metavar="CORES",
    help="Shed detail above this CPU use, the programs' included. 0: none.",
)
@click.option("--memory-budget", default=0, metavar="MB", help="Shed detail above this memory. 0: none.")
@click.option("--kubeconfig", default="", metavar="FILE", help="Kubernetes, from outside of it.")
@click.option(
    "--kube/--no-kube", "kube", default=None, help="Kubernetes names. Default: when in a cluster or with --kubeconfig."
)
@click.option(
    "--node-name", default="", envvar="NODE_NAME", metavar="NAME", help="This node. Default: the host's name."
)
@click.option("--cluster-name", default="", metavar="NAME", help="Label of every identity of this cluster.")
@click.option(
    "--identity-scope",
    type=click.Choice(["cluster", "node+services"]),
    default="cluster",
    show_default=True,
    help="What is watched: see docs/identity.md for the cost of each.",
)
@click.option(
    "--metric-label",
    "metric_labels",
    multiple=True,
    metavar="LABEL",
    help="A pod label that becomes a metric label; repeat.",
)
@click.option(
    "--external-name",
    "external_suffixes",
    multiple=True,
    metavar="SUFFIX",
    help="DNS suffix whose names may become metric labels; repeat.",
)
@click.option(
    "--tombstone",
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a deleted pod's address is remembered for flows of its time.",
)
@click.option(
    "--conntrack",
    is_flag=False,
    flag_value="host",
    default="off",
    show_default=True,
    metavar="NETNS",
    help="Name a service's backends on other nodes by connection tracking: of our own network namespace (`host`), or of NETNS.",
)
@click.option(
    "--state",
    default=STATE_ROOT,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where state and socket are kept.",
)
@click.option(
    "--detach-on-exit",
    is_flag=True,
    help="Remove the programs on a clean stop. Default: they go on counting for the next agent.",
)
@click.option("--log-json", is_flag=True, help="Logs as JSON lines.")
@click.option("-v", "--verbose", is_flag=True)
def agent_command(**arguments: Any) -> None:
    """Run the agent: capture, name, count, serve.

    \b
    Examples:
      sidelight agent                                      this host; metrics at http://127.0.0.1:9464/metrics
      sidelight agent --cgroup /sys/fs/cgroup/system.slice --instance services
      sidelight agent --metrics http --metrics tcp --metrics istio --metrics-listen :9464
      sidelight agent --hubble-listen :4244 --tls-cert s.crt --tls-key s.key --tls-client-ca ca.crt
    """
    from sidelight.cli.config import apply_file

    values = apply_file(arguments, click.get_current_context())
    configure_logging(values["log_json"], values["verbose"])
    run(values)


def run(values: dict[str, Any]) -> None:
    """Starts everything, waits for SIGTERM or SIGINT, stops everything."""
    from sidelight.cli.runtime import Runtime

    heap = Heap()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    runtime = Runtime(agent_settings(values), values)
    runtime.start()
    try:
        while not stop.wait(1.0):
            runtime.reload_if_changed()
            heap.tidy(runtime.listings)
    finally:
        runtime.stop(detach=values["detach_on_exit"])


def agent_settings(values: dict[str, Any]) -> AgentSettings:
    """AgentSettings of the command's values. Raises ConfigError, UnsupportedFeature."""
    cgroup, root = options.check_machine(values["cgroup"], values["bpffs"])
    ring = values["ring_pages"]
    if ring < 1 or ring & (ring - 1):
        raise ConfigError(f"--ring-pages {ring}: must be a power of two")
    if not 16 <= values["map_entries"] <= 1 << 20:
        raise ConfigError("--max-edges: between 16 and 1048576")
    if not 1 <= values["max_operations"] <= 65536:
        raise ConfigError("--max-operations: between 1 and 65536")
    if len(values["http_routes"]) > values["max_operations"]:
        raise ConfigError("--max-operations: fewer than there are templates of --http-route")
    if not 0.05 <= values["interval"] <= 60:
        raise ConfigError("--interval: between 0.05 and 60 seconds")
    if not 0 <= values["tombstone"] <= 86400:
        raise ConfigError("--tombstone: between 0 and 86400 seconds")
    rate = values["event_rate"]
    if rate < 0 or values["sample"] < 0 or values["slow"] < 0:
        raise ConfigError("--event-rate, --sample and --slow cannot be negative")
    return AgentSettings(
        cgroup=cgroup,
        cgroup_root=root,
        instance=values["instance"],
        bpffs=values["bpffs"],
        state=values["state"],
        sizes=options.sizes_of(values["map_entries"], ring, values["max_operations"]),
        capture=CaptureSettings(
            slow_ns=int(values["slow"] * 1e9),
            sample_period=values["sample"],
            ordinary_rate=rate,
            priority_rate=rate,
            connection_rate=rate,
            payload_rate=rate,
            query_text=values["query_text"],
            routes=(TEMPLATES if values["http_routes"] else 0) | (FOLD if values["fold_http_routes"] else 0),
        ),
        http_routes=tuple(values["http_routes"]),
        interval_s=values["interval"],
        ring_bytes=values["flow_memory"] << 20,
        cluster=values["cluster_name"],
        node=values["node_name"] or socket.gethostname(),
        kubernetes=_wants_kubernetes(values),
        kubeconfig=values["kubeconfig"],
        identity_scope=values["identity_scope"],
        tombstone_s=values["tombstone"],
        conntrack={"off": None, "host": ""}.get(values["conntrack"], values["conntrack"]),
        metric_labels=tuple(values["metric_labels"]),
        cidrs=values.get("cidrs") or {},
        external_suffixes=tuple(values["external_suffixes"]),
        cpu_budget=values["cpu_budget"],
        memory_budget=values["memory_budget"] << 20,
    )


def _wants_kubernetes(values: dict[str, Any]) -> bool:
    if values["kube"] is not None:
        return bool(values["kube"])
    return bool(values["kubeconfig"]) or Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        import json

        return json.dumps(
            {
                "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
        )


class _RateLimit(logging.Filter):
    """The same message at most `burst` times in ten seconds; then how often it was held back."""

    def __init__(self, burst: int = 5) -> None:
        super().__init__()
        self._burst = burst
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        began, count = self._seen.get(record.msg, (record.created, 0))
        if record.created - began > 10:
            held = count - self._burst
            if held > 0:
                record.msg = f"{record.msg} (said {held} more times)"
            began, count = record.created, 0
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[record.msg] = (began, count + 1)
        return count < self._burst


def configure_logging(as_json: bool, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    handler.addFilter(_RateLimit())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for noisy in ("pyroute2", "urllib3", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
