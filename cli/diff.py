"""`sidelight diff`: what changed, as one screen."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import click

from sidelight.analysis.wording import duration_text
from sidelight.cli import options
from sidelight.cli.client import connect
from sidelight.cli.selection import duration_s, is_failed
from sidelight.exporter.detail import detail_of
from sidelight.exporter.proto import flow_pb2, observer_pb2


@dataclass(slots=True)
class Seen:
    """Sampled flows of an edge within a span of time."""

    requests: int = 0
    failed: int = 0
    connections: int = 0
    latencies: list[float] = field(default_factory=list)

    def p95(self) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] if ordered else 0.0

    def share_failed(self) -> float:
        total = self.requests or self.connections
        return self.failed / total if total else 0.0


@click.command("diff")
@options.connection_options
@click.option(
    "--before",
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="Compare the time since then with as long before.",
)
@click.option("--latency", default=1.5, show_default=True, help="Report p95 shifts by this factor at least.")
@click.option(
    "--errors", default=0.01, show_default=True, help="Report shifts of the failed share by this much at least."
)
def diff_command(before: str, latency: float, errors: float, **arguments: Any) -> None:
    """What changed: new edges, gone edges, shifts of failures and latency, from the agent's flows.

    \b
    Examples:
      sidelight diff --before 10m
      sidelight diff --before 30s --latency 1.2
    """
    span = duration_s(before)
    now = time.time_ns()
    middle = now - int(span * 1e9)
    request = observer_pb2.GetFlowsRequest()
    request.since.FromNanoseconds(middle - int(span * 1e9))
    earlier: dict[tuple[str, str], Seen] = defaultdict(Seen)
    later: dict[tuple[str, str], Seen] = defaultdict(Seen)
    with connect(arguments, own_agent=False) as client:
        for response in client.flows(request):
            if response.HasField("flow"):
                take(response.flow, later if response.flow.time.ToNanoseconds() >= middle else earlier)
    for line in compare(earlier, later, latency, errors):
        click.echo(line)


def take(flow: flow_pb2.Flow, into: dict[tuple[str, str], Seen]) -> None:
    """Counts a flow, as one reporter saw it."""
    detail = detail_of(flow)
    if detail.reporter == "source" and detail.destination_provenance in ("peer-cgroup", "listener"):
        return  # the server's side reports it too
    port = flow.l4.TCP.destination_port or flow.l4.UDP.destination_port
    source = detail.source_name or flow.IP.source
    seen = into[(source, f"{detail.destination_name or flow.IP.destination}:{port}")]
    if flow.l7.WhichOneof("record") == "http":
        seen.requests += 1
        seen.latencies.append(flow.l7.latency_ns / 1e9)
        seen.failed += is_failed(flow)
    elif detail.kind in ("open", "fail"):
        seen.connections += 1
        seen.failed += detail.kind == "fail" and not seen.requests


def compare(
    earlier: dict[tuple[str, str], Seen], later: dict[tuple[str, str], Seen], latency: float, errors: float
) -> list[str]:
    """Lines for people, the gravest first."""
    lines = [
        click.style(
            f"new    {key[0]} -> {key[1]}  {later[key].requests} requests, {later[key].connections} connections",
            fg="cyan",
        )
        for key in sorted(later.keys() - earlier.keys())
    ]
    lines += [click.style(f"gone   {key[0]} -> {key[1]}", fg="yellow") for key in sorted(earlier.keys() - later.keys())]
    for key in sorted(earlier.keys() & later.keys()):
        before, after = earlier[key], later[key]
        if abs(after.share_failed() - before.share_failed()) >= errors:
            colour = "red" if after.share_failed() > before.share_failed() else "green"
            lines.insert(
                0,
                click.style(
                    f"errors {key[0]} -> {key[1]}  {before.share_failed():.1%} -> {after.share_failed():.1%}", fg=colour
                ),
            )
        old, new = before.p95(), after.p95()
        if old and new and (new / old >= latency or old / new >= latency):
            colour = "red" if new > old else "green"
            lines.append(
                click.style(f"p95    {key[0]} -> {key[1]}  {duration_text(old)} -> {duration_text(new)}", fg=colour)
            )
    return lines or ["nothing changed"]
