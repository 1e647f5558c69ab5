"""A verdict on a terminal: one line that says what it comes to, a row a metric with its interval, what to wait for."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sidelight.analysis.verdict import FAIL, INCONCLUSIVE, PASS, MetricVerdict, Verdict
from sidelight.analysis.wording import percent, span

if TYPE_CHECKING:
    from sidelight.exporter.verify.trial import Trial

STYLES = {PASS: "bold green", FAIL: "bold red", INCONCLUSIVE: "bold yellow"}
PLOT_WIDTH = 31


class Screen:
    """Shows a trial as it goes on: all of it (`live`), which stays unless it is not to be kept, or a line on standard error that goes."""

    def __init__(self, trial: Trial, *, live: bool, keep: bool = True) -> None:
        self._trial, self._full = trial, live
        self._console = Console(stderr=not live)
        self._live = Live(console=self._console, auto_refresh=False, transient=not live or not keep)

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
            self._live.update(
                Text(f"{self._trial.arms.target}: waiting for the first intervals …", style="dim"), refresh=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, verdict: Verdict) -> None:
        if not self._console.is_terminal:
            return
        if self._full:
            self._live.update(rendered(self._trial.document(), verdict), refresh=True)
            return
        line = f"{span(verdict.seconds)}, {verdict.n_baseline:,} and {verdict.n_canary:,} exchanges: {verdict.sentence}"
        self._live.update(Text(line, style="dim", no_wrap=True, overflow="ellipsis"), refresh=True)


def print_verdict(document: dict[str, Any], verdict: Verdict) -> None:
    """The whole, as it stands."""
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False).print(rendered(document, verdict))


def rendered(document: dict[str, Any], verdict: Verdict) -> RenderableType:
    head = Text.assemble(
        (document["target"], "bold"), f": {document['canary']} beside {document['baseline']}, ",
        f"{span(verdict.seconds)}, {verdict.looks} looks, {document['source']}",
    )  # fmt: skip
    conclusion = Text.assemble((verdict.verdict.upper(), STYLES[verdict.verdict]), "  ", verdict.sentence)
    parts: list[RenderableType] = [head, Text(), conclusion, Text()]
    if verdict.metrics:
        parts += [table(verdict.metrics), Text()]
    pods = f"{verdict.n_baseline:,} exchanges of {_pods(verdict.pods_baseline)} beside {verdict.n_canary:,} of {_pods(verdict.pods_canary)}"
    parts.append(Text(f"Compared: {pods}; the canary gets {verdict.rate_canary:.3g} a second.", style="dim"))
    parts += [Text(f"  ✗ {reason}", style="yellow") for reason in verdict.reasons]
    parts += [Text(f"  · {note}", style="dim") for note in verdict.notes]
    for metric in verdict.metrics:
        if metric.verdict == INCONCLUSIVE and metric.weight == "required":
            parts += _waits(metric)
        elif metric.verdict == FAIL:
            parts += _where(metric)
    return Group(*parts)


def _pods(count: int) -> str:
    return "1 pod" if count == 1 else f"{count} pods"


def _waits(metric: MetricVerdict) -> list[RenderableType]:
    settles = f"; what settles it: {metric.settles}" if metric.settles else ""
    return [Text(f"  … {metric.name}: {'; '.join(metric.reasons)}{settles}")]


def _where(metric: MetricVerdict) -> list[RenderableType]:
    places = [f"{row.get('pod') or row.get('stratum')} ({row['events']:,} of {row['trials']:,})" for row in metric.top]
    return [Text(f"  ✗ {metric.name}, most of it: {', '.join(places)}", style="red")] if places else []


def table(metrics: list[MetricVerdict]) -> Table:
    """A row a metric: rates, the difference's interval drawn on one scale for all, the verdict."""
    found = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    scale = max((_reach(metric) for metric in metrics), default=0.01)
    found.add_column("metric")
    found.add_column("share of")
    found.add_column("baseline", justify="right")
    found.add_column("canary", justify="right")
    found.add_column("difference, pp", justify="right")
    found.add_column(f"{-scale * 100:.3g} … 0 … {scale * 100:.3g} pp", no_wrap=True, min_width=PLOT_WIDTH)
    found.add_column("tolerated", justify="right")
    found.add_column("verdict")
    for metric in metrics:
        said = Text(metric.verdict.upper(), style=STYLES[metric.verdict])
        if metric.decided_at:
            said.append(f" after {span(metric.decided_at)}", style="dim")
        if metric.weight == "advisory":
            said = Text(f"({metric.verdict}, advisory)", style="dim")
        elif metric.weight == "guard" and metric.verdict == INCONCLUSIVE:
            said = Text("(open, not needed)", style="dim")
        found.add_row(
            metric.name,
            metric.says,
            f"{percent(metric.share_baseline)} of {metric.n_baseline:,}",
            f"{percent(metric.share_canary)} of {metric.n_canary:,}",
            f"{metric.low * 100:+.2f} … {metric.high * 100:+.2f}",
            plot(metric, scale),
            percent(metric.limit),
            said,
        )
    return found


def _reach(metric: MetricVerdict) -> float:
    """How far from zero the interesting part of its interval goes."""
    apart = abs(metric.share_canary - metric.share_baseline)
    return min(
        1.0,
        max(abs(metric.low) if metric.low > -1 else 0, abs(metric.high) if metric.high < 1 else 0, 2 * apart, 0.002),
    )


def plot(metric: MetricVerdict, scale: float) -> Text:
    """The interval ─ with the difference ● and what is tolerated ┆, on a scale from -scale to scale."""
    half = PLOT_WIDTH // 2

    def place(value: float) -> int:
        return max(0, min(PLOT_WIDTH - 1, round(half + value / scale * half)))

    cells = [" "] * PLOT_WIDTH
    for cell in range(place(metric.low), place(metric.high) + 1):
        cells[cell] = "─"
    cells[half] = "│" if cells[half] == " " else "┼"
    cells[place(metric.limit - metric.share_baseline)] = "┆"
    if metric.n_canary and metric.n_baseline:
        cells[place(metric.share_canary - metric.share_baseline)] = "●"
    return Text("".join(cells), style=STYLES[metric.verdict].removeprefix("bold "))
