"""`sidelight top`: a live table of edges."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sidelight.analysis.wording import bytes_text, duration_text
from sidelight.cli import options
from sidelight.cli.client import Client, connect
from sidelight.cli.rates import EdgeRate, active, rates

SORTS: dict[str, Callable[[EdgeRate], float]] = {
    "rate": lambda rate: rate.rate,
    "errors": lambda rate: rate.errors + rate.failed,
    "p99": lambda rate: rate.p99_s,
    "bytes": lambda rate: rate.sent_bytes + rate.received_bytes,
    "retransmits": lambda rate: rate.retransmits,
}
KEYS = {"r": "rate", "e": "errors", "l": "p99", "b": "bytes", "t": "retransmits"}


@click.command("top")
@click.argument("name", default="")
@options.connection_options
@options.cgroup_option
@click.option("--sort", type=click.Choice(list(SORTS)), default="rate", show_default=True)
@click.option("--reporter", type=click.Choice(["both", "source", "destination"]), default="both", show_default=True,
              help="Show an edge once, as the server's side saw it, or one side only.")  # fmt: skip
@click.option("--interval", default=2.0, show_default=True, type=click.FloatRange(0.2, 60), metavar="SECONDS")
@click.option(
    "-n", "--count", default=0, type=click.IntRange(0), help="Stop after N refreshes. Default: never, in a pipe 1."
)
def top_command(name: str, sort: str, reporter: str, interval: float, count: int, **arguments: Any) -> None:
    """Edges by rate, errors, latency, RTT and retransmits, live.

    Keys: r rate, e errors, l latency, b bytes, t retransmits; / filters by name, Enter drills down into the first edge's
    server, Backspace comes back, q ends.

    \b
    Examples:
      sidelight top
      sidelight top shop/web --sort p99
      sidelight top -n 1 | head
    """
    with connect(arguments) as client:
        if sys.stdout.isatty():
            _live(client, View(name, sort, reporter), interval, count)
        else:
            before = client.query("edges")
            for _ in range(count or 1):
                time.sleep(interval)
                after = client.query("edges")
                click.echo(_plain(select_rows(rates(before, after), View(name, sort, reporter))))
                before = after


class View:
    """What is shown: filter, order, and where the user has drilled down to."""

    def __init__(self, name: str, sort: str, reporter: str) -> None:
        self.name, self.sort, self.reporter = name, sort, reporter
        self.history: list[str] = []
        self.typing: str | None = None
        self.done = False

    def press(self, key: str, rows: list[EdgeRate]) -> None:
        """One key."""
        if self.typing is not None:
            if key in "\r\n":
                self.name, self.typing = self.typing, None
            elif key == "\x1b":
                self.typing = None
            elif key in "\x7f\b":
                self.typing = self.typing[:-1]
            elif key.isprintable():
                self.typing += key
            return
        if key in KEYS:
            self.sort = KEYS[key]
        elif key == "q" or key == "\x03":
            self.done = True
        elif key == "/":
            self.typing = ""
        elif key in "\r\n" and rows:
            self.history.append(self.name)
            self.name = rows[0].key[2].split("@")[0]
        elif key in "\x7f\b":
            self.name = self.history.pop() if self.history else ""


def select_rows(found: list[EdgeRate], view: View) -> list[EdgeRate]:
    """The active edges that the view wants, in its order."""
    rows = [rate for rate in found if active(rate)]
    if view.name:
        rows = [
            rate for rate in rows if view.name in rate.key[1] or view.name in rate.key[2] or view.name in rate.key[3]
        ]
    if view.reporter != "both":
        rows = [rate for rate in rows if rate.key[0] == view.reporter]
    else:
        # by the two ends, not the port: a client dials the service's, the server answers on its own
        served = {rate.key[1:3] for rate in rows if rate.key[0] == "destination"}
        rows = [rate for rate in rows if rate.key[0] == "destination" or rate.key[1:3] not in served]
    return sorted(rows, key=lambda rate: (-SORTS[view.sort](rate), rate.key))


def _cells(rate: EdgeRate) -> list[str]:
    errors = f"{rate.errors + rate.failed}" if rate.errors or rate.failed else ""
    share = f" {rate.error_share:.1%}" if rate.errors else ""
    return [
        rate.key[1],
        rate.key[2] + f":{rate.key[4]}",
        f"{rate.rate:,.1f}",
        errors + share,
        duration_text(rate.p50_s) if rate.requests else "",
        duration_text(rate.p99_s) if rate.requests else "",
        duration_text(rate.rtt_s) if rate.rtt_s else "",
        str(rate.retransmits or ""),
        bytes_text(rate.sent_bytes + rate.received_bytes),
    ]


HEADINGS = ("client", "server", "rate/s", "errors", "p50", "p99", "rtt", "retrans", "bytes")


def _plain(rows: list[EdgeRate]) -> str:
    cells = [list(HEADINGS), *[_cells(rate) for rate in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _table(rows: list[EdgeRate], view: View, height: int) -> Table:
    title = f"sorted by {view.sort}" + (f", only {view.name}" if view.name else "")
    if view.typing is not None:
        title = f"filter: {view.typing}_"
    table = Table(title=title, title_justify="left", expand=True, box=None, pad_edge=False)
    for index, heading in enumerate(HEADINGS):
        table.add_column(
            heading,
            justify="left" if index < 2 else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=3 if index < 2 else None,
        )
    for rate in rows[: max(1, height - 4)]:
        cells = [Text(cell) for cell in _cells(rate)]
        if rate.errors or rate.failed:
            cells[3].stylize("red")
        table.add_row(*cells)
    return table


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A reader of single keys with a time limit in seconds."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds) or ""  # type: ignore[func-returns-value]
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def read(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        yield read
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _live(client: Client, view: View, interval: float, count: int) -> None:
    console = Console()
    before = client.query("edges")
    rows: list[EdgeRate] = []
    shown = 0
    try:
        with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
            live.update(Text("measuring..."), refresh=True)
            found: list[EdgeRate] = []
            due = time.monotonic() + interval
            while not view.done and (not count or shown < count):
                pressed = key(max(0.0, due - time.monotonic()))
                if pressed:
                    view.press(pressed, rows)
                if time.monotonic() >= due:
                    after = client.query("edges")
                    found, before = rates(before, after), after
                    due = time.monotonic() + interval
                    shown += 1
                rows = select_rows(found, view)
                live.update(_table(rows, view, console.height), refresh=True)
    except KeyboardInterrupt:
        return
