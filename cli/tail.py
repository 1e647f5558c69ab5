"""`sidelight tail`."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sidelight.agent.errors import ConfigError
from sidelight.cli import options
from sidelight.cli.client import connect
from sidelight.cli.render import line
from sidelight.cli.selection import STORE_TITLES, Selection, duration_s, is_failed, moment
from sidelight.exporter.detail import detail_of
from sidelight.exporter.proto import observer_pb2

STYLES = ("compact", "wide", "json", "jsonpb")


def complete_workload(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Live workload names of the local agent, for shell completion."""
    from sidelight.agent.errors import SidelightError

    arguments = {"instance": ctx.params.get("instance") or "default", "socket_path": ctx.params.get("socket_path")}
    try:
        with connect(arguments, own_agent=False) as client:
            names = [node["id"].split("@")[0] for node in client.query("map")["nodes"]]
    except SidelightError:
        return []
    return sorted({name for name in names if name.startswith(incomplete)})


@click.command("tail")
@click.argument("selectors", nargs=-1, shell_complete=complete_workload)
@options.connection_options
@options.cgroup_option
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="SELECTOR",
    help="Only from this end; repeat for more.",
    shell_complete=complete_workload,
)
@click.option(
    "--to",
    "destinations",
    multiple=True,
    metavar="SELECTOR",
    help="Only to this end; repeat for more.",
    shell_complete=complete_workload,
)
@click.option(
    "--status",
    multiple=True,
    metavar="STATUS",
    help="HTTP status or class: 404, 5xx; or gRPC's, or a data store's: UNAVAILABLE, WRONGTYPE; repeat for more.",
)
@click.option("--method", "methods", multiple=True, metavar="METHOD", help="HTTP method; repeat for more.")
@click.option("--path", default="", metavar="PREFIX", help="Requests whose path begins so.")
@click.option("--role", type=click.Choice(["client", "server"]), help="As reported by this end.")
@click.option("--protocol", type=click.Choice(["http", *STORE_TITLES, "dns", "tcp", "udp"]))
@click.option("--trace", default="", metavar="ID", help="Requests of this trace.")
@click.option("--failed", is_flag=True, help="Failed attempts, 5xx, requests without a response, DNS errors, resets.")
@click.option("--slower", default="", metavar="DURATION", help="Requests slower than 200ms, 1s...")
@click.option("--since", default="", metavar="TIME", help="From this time on: 5m, or 2024-05-01T12:00:00.")
@click.option("--until", default="", metavar="TIME")
@click.option("--last", default=None, type=click.IntRange(0), metavar="N", help="Begin with the last N.")
@click.option(
    "--follow/--no-follow", "-f", default=None, help="Go on with new flows. Default: unless --last, --until or --file."
)
@click.option("-n", "--count", default=0, type=click.IntRange(0), metavar="N", help="Stop after N flows.")
@click.option(
    "--file",
    "path_",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="Flows of a file that `sidelight record` wrote.",
)
@click.option("-o", "--output", type=click.Choice(STYLES), default="compact", show_default=True)
@click.option("--no-color", is_flag=True, help="Or set NO_COLOR.")
def tail_command(**arguments: Any) -> None:
    """Follow live connections and requests.

    \b
    Examples:
      sidelight tail                            everything, live
      sidelight tail web                        what workload web does or serves
      sidelight tail --from shop/web --to :6379
      sidelight tail --failed --since 5m
      sidelight tail svc:shop/cart --slower 200ms -o json
    """
    selection = Selection(
        selectors=arguments["selectors"],
        sources=arguments["sources"],
        destinations=arguments["destinations"],
        status=arguments["status"],
        methods=arguments["methods"],
        path=arguments["path"],
        role=arguments["role"] or "",
        protocol=arguments["protocol"] or "",
        trace=arguments["trace"],
        failed=arguments["failed"],
        slower_s=duration_s(arguments["slower"]) if arguments["slower"] else 0.0,
    )
    request = flows_request(selection, arguments)
    if arguments["path_"]:
        from sidelight.cli.recording import read_flows

        show(read_flows(arguments["path_"], request), selection, arguments)
        return
    with connect(arguments) as client, client.until_interrupted():
        show(client.flows(request), selection, arguments, lambda: client.interrupted)


def flows_request(selection: Selection, arguments: dict[str, Any]) -> observer_pb2.GetFlowsRequest:
    """The GetFlows request of a command's arguments. Raises ConfigError."""
    now = datetime.now(UTC)
    follow = arguments.get("follow")
    bounded = arguments.get("last") is not None or arguments.get("until")
    if follow is None:
        follow = not bounded
    request = observer_pb2.GetFlowsRequest(
        number=arguments.get("last") or 0, follow=follow, whitelist=selection.filters()
    )
    if arguments.get("since"):
        request.since.FromDatetime(moment(arguments["since"], now).astimezone(UTC).replace(tzinfo=None))
    if arguments.get("until"):
        request.until.FromDatetime(moment(arguments["until"], now).astimezone(UTC).replace(tzinfo=None))
    if arguments.get("last") is not None and arguments.get("since"):
        raise ConfigError("--last and --since exclude each other")
    return request


def wants_colour(arguments: dict[str, Any]) -> bool:
    import os

    return sys.stdout.isatty() and not arguments.get("no_color") and not os.environ.get("NO_COLOR")


def show(
    responses: Iterator[Any],
    selection: Selection,
    arguments: dict[str, Any],
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Prints until the stream, the count or the user's patience (`stopped`) ends; then what was seen and lost."""
    style = arguments["output"]
    colour = wants_colour(arguments)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal and style in ("compact", "wide") else 0
    several = len(arguments.get("servers") or ()) > 1 or bool(arguments.get("kube_context"))
    wanted = selection.local()
    counts: Counter[str] = Counter()
    interrupted = False
    try:
        for response in responses:
            if response.HasField("lost_events"):
                counts["lost"] += response.lost_events.num_events_lost
                click.echo(
                    f"sidelight: missed {response.lost_events.num_events_lost} flows: too slow for them", err=True
                )
                continue
            if not response.HasField("flow") or not wanted(response.flow):
                continue
            click.echo(line(response, style, width=width, node=several), color=colour)
            counts["shown"] += 1
            counts[detail_of(response.flow).kind or "flow"] += 1
            counts["failed"] += is_failed(response.flow)
            if arguments.get("count") and counts["shown"] >= arguments["count"]:
                break
    except KeyboardInterrupt:
        interrupted = True
    if interrupted := interrupted or stopped():
        click.echo("", err=True)
    if terminal or interrupted or counts["lost"]:
        click.echo(summary(counts), err=True)


def summary(counts: Counter[str]) -> str:
    """`12 flows: 5 requests, 3 opened, ...; 1 failed; none missed`"""
    words = {
        "request": "requests",
        "open": "opened",
        "close": "closed",
        "fail": "failed attempts",
        "dns": "DNS",
        "tls": "TLS",
    }
    parts = [f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind]]
    lost = f"{counts['lost']} missed" if counts["lost"] else "none missed"
    return (
        f"{counts['shown']} flows" + (f": {', '.join(parts)}" if parts else "") + f"; {counts['failed']} failed; {lost}"
    )
