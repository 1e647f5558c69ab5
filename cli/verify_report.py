"""A verdict as a page to keep or attach: HTML with plots drawn as SVG, the plots alone, JUnit for pipelines."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np

from sidelight import __version__
from sidelight.analysis.blocks import ARM, EVENTS, INTERVAL, TRIALS, dispersions, evidence_along
from sidelight.analysis.comparison import BASELINE, CANARY, rows_of
from sidelight.analysis.evidence import BETTER, WORSE, Tolerance
from sidelight.analysis.verdict import FAIL, INCONCLUSIVE, PASS, MetricVerdict, Verdict
from sidelight.analysis.wording import percent, span

COLOURS = {PASS: "#1a7f37", FAIL: "#b3261e", INCONCLUSIVE: "#8a6100"}
BASELINE_COLOUR, CANARY_COLOUR = "#4c6ef5", "#d9480f"
WIDTH, HEIGHT, MARGIN = 460, 150, 44
POINTS = 60
"""Steps a rate is drawn in."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem; color: #1f2328; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } table { border-collapse: collapse }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #d0d7de; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums } .dim { color: #59636e } svg { max-width: 100%; height: auto }
"""


def page(document: dict[str, Any], verdict: Verdict) -> str:
    """HTML that needs nothing from elsewhere."""
    title = f"{document['target']}: {document['canary']} beside {document['baseline']}"
    rows = "".join(_row(metric) for metric in verdict.metrics)
    doubts = "".join(f"<li>{escape(text)}</li>" for text in [*verdict.reasons, *verdict.notes])
    settings = ", ".join(f"{name} {value}" for name, value in document["settings"].items())
    places = "".join(
        f"<li>{escape(metric.name)}: {escape(str(row.get('pod') or row.get('stratum')))}, {row['events']:,} of {row['trials']:,}</li>"
        for metric in verdict.metrics
        if metric.verdict != PASS
        for row in metric.top
    )
    drawn = "".join(
        f"<h2>{escape(metric.name)}: {escape(metric.says)}</h2>{rates}{evidence}"
        for metric, rates, evidence in _drawn(document, verdict)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p><strong style="color:{COLOURS[verdict.verdict]}">{verdict.verdict.upper()}</strong> {escape(verdict.sentence)}</p>
<p class="dim">{verdict.n_baseline:,} exchanges of {verdict.pods_baseline} and {verdict.n_canary:,} of {verdict.pods_canary} pods in
{escape(span(verdict.seconds))}, {verdict.looks} looks; {escape(document["source"])}; sidelight {__version__}</p>
{_forest(verdict)}
<table><tr><th>metric</th><th>share of</th><th>baseline</th><th>canary</th><th>difference, pp</th><th>factor</th><th>tolerated</th>
<th>verdict</th><th>why, and what settles it</th></tr>{rows}</table>
<ul>{doubts}</ul><ul>{places}</ul>
<p class="dim">A difference's interval misses with a chance of at most {document["settings"]["alpha"]:.0%} for all metrics together, whenever one
looks. {escape(settings)}.</p>
{drawn}
</body></html>
"""


def _row(metric: MetricVerdict) -> str:
    why = "; ".join([*metric.reasons, *([metric.settles] if metric.settles else [])])
    weight = "" if metric.weight == "required" else f" ({metric.weight})"
    high = "∞" if math.isinf(metric.ratio_high) else f"{metric.ratio_high:.3g}"
    cells = [
        ("", escape(metric.name)),
        ("", escape(metric.says)),
        (
            "n",
            f"{metric.k_baseline:,} of {metric.n_baseline:,}<br>{percent(metric.share_baseline) if metric.n_baseline else '-'}",
        ),
        (
            "n",
            f"{metric.k_canary:,} of {metric.n_canary:,}<br>{percent(metric.share_canary) if metric.n_canary else '-'}",
        ),
        ("n", f"{metric.low * 100:+.3f} … {metric.high * 100:+.3f}"),
        ("n", f"{metric.ratio_low:.3g} … {high}"),
        ("n", percent(metric.limit)),
        ("", f'<span style="color:{COLOURS[metric.verdict]}">{metric.verdict}</span>{weight}'),
        ("", escape(why)),
    ]
    return "<tr>" + "".join(f'<td class="{kind}">{text}</td>' for kind, text in cells) + "</tr>"


def plots(document: dict[str, Any], verdict: Verdict) -> str:
    """One SVG: the differences, and each metric's rates and evidence below."""
    parts = [_forest(verdict)]
    parts += [part for _, *plots in _drawn(document, verdict) for part in plots]
    height, placed = 0, []
    for part in parts:
        placed.append(part.replace("<svg ", f'<svg y="{height}" ', 1))
        height += int(part.split('height="')[1].split('"')[0]) + 8
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{height}">{"".join(placed)}</svg>\n'


def _forest(verdict: Verdict) -> str:
    """Each metric's difference with its interval and what is tolerated, on one scale."""
    metrics = verdict.metrics
    reach = max((min(1.0, max(abs(m.low), abs(m.high))) for m in metrics if m.low > -1 and m.high < 1), default=0.01)
    width, left = 2 * WIDTH, 200
    middle = left + (width - left - 20) / 2

    def x(value: float) -> float:
        return middle + max(-1.0, min(1.0, value / reach)) * (width - left - 20) / 2

    lines = [f'<line x1="{middle}" x2="{middle}" y1="6" y2="{26 * len(metrics) + 6}" stroke="#d0d7de"/>']
    for index, metric in enumerate(metrics):
        y = 20 + 26 * index
        apart = metric.share_canary - metric.share_baseline
        tolerated = x(metric.limit - metric.share_baseline)
        colour = COLOURS[metric.verdict]
        lines += [
            f'<text x="0" y="{y + 4}" font-size="12" fill="#1f2328">{escape(metric.name)}</text>',
            f'<line x1="{x(metric.low):.1f}" x2="{x(metric.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>',
            f'<circle cx="{x(apart):.1f}" cy="{y}" r="4" fill="{colour}"/>',
            f'<line x1="{tolerated:.1f}" x2="{tolerated:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="#1f2328" stroke-dasharray="2 2"/>',
        ]
    label = f"difference, from {-reach * 100:.3g} to {reach * 100:.3g} pp; dashed: what is tolerated"
    bottom = 26 * len(metrics) + 20
    lines.append(f'<text x="{middle}" y="{bottom}" font-size="11" fill="#59636e" text-anchor="middle">{label}</text>')
    return _svg(width, bottom + 8, lines)


def _drawn(document: dict[str, Any], verdict: Verdict) -> Iterator[tuple[MetricVerdict, str, str]]:
    """(a metric, its rates, its evidence)."""
    rows = {about["name"]: found for about, found in rows_of(document)}
    for metric in verdict.metrics:
        yield metric, _rates(document, metric, rows[metric.name]), _evidence(document, metric, rows[metric.name])


def _rates(document: dict[str, Any], metric: MetricVerdict, rows: np.ndarray) -> str:
    """Both arms' shares over time."""
    intervals = len(document["intervals"])
    step = max(1, math.ceil(intervals / POINTS))
    shares = {}
    for arm in (BASELINE, CANARY):
        mine = rows[rows[:, ARM] == arm]
        sums = np.zeros((math.ceil(intervals / step), 2))
        np.add.at(sums[:, 0], mine[:, INTERVAL] // step, mine[:, TRIALS])
        np.add.at(sums[:, 1], mine[:, INTERVAL] // step, mine[:, EVENTS])
        shares[arm] = [(i, e / n) for i, (n, e) in enumerate(sums.tolist()) if n]
    top = max([share for points in shares.values() for _, share in points] + [metric.limit, 1e-6])
    lines = _axes("share over time", percent(top), "0")
    for arm, colour in ((BASELINE, BASELINE_COLOUR), (CANARY, CANARY_COLOUR)):
        lines.append(_line([(i / max(1, intervals // step), share / top) for i, share in shares[arm]], colour))
    lines.append(_line([(0, metric.limit / top), (1, metric.limit / top)], "#1f2328", dashed=True))
    lines += _legend([("baseline", BASELINE_COLOUR), ("canary", CANARY_COLOUR), ("tolerated", "#1f2328")])
    return _svg(WIDTH, HEIGHT, lines)


def _evidence(document: dict[str, Any], metric: MetricVerdict, rows: np.ndarray) -> str:
    """log10 of the e-values, look by look, and where they decide."""
    intervals = len(document["intervals"])
    tolerance = Tolerance(metric.ratio, metric.margin)
    spread, _ = dispersions(rows, intervals, document["settings"]["unit"])
    along = evidence_along(rows, intervals, tolerance, spread) / math.log(10)
    floor = -2.0
    top = max(metric.needed_worse, metric.needed_better, min(float(along.max(initial=0.0)), 6.0)) * 1.15

    def y(value: float) -> float:
        return (max(floor, min(top, value)) - floor) / (top - floor)

    lines = _axes("evidence, log10", f"{top:.1f}", f"{floor:.0f}")
    for side, colour in ((WORSE, COLOURS[FAIL]), (BETTER, COLOURS[PASS])):
        points = [(index / max(1, intervals - 1), y(float(value))) for index, value in enumerate(along[:, side])]
        lines.append(_line(points, colour))
    for needed, colour in ((metric.needed_worse, COLOURS[FAIL]), (metric.needed_better, COLOURS[PASS])):
        lines.append(_line([(0, y(needed)), (1, y(needed))], colour, dashed=True))
    lines += _legend([("worse than tolerated", COLOURS[FAIL]), ("within it", COLOURS[PASS])])
    return _svg(WIDTH, HEIGHT, lines)


def _axes(title: str, top: str, bottom: str) -> list[str]:
    right, low = WIDTH - 8, HEIGHT - 24
    return [
        f'<path d="M{MARGIN} 20V{low}H{right}" fill="none" stroke="#8c959f"/>',
        f'<text x="{MARGIN}" y="12" font-size="11" fill="#1f2328">{title}</text>',
        f'<text x="{MARGIN - 4}" y="26" font-size="10" fill="#59636e" text-anchor="end">{top}</text>',
        f'<text x="{MARGIN - 4}" y="{low}" font-size="10" fill="#59636e" text-anchor="end">{bottom}</text>',
    ]


def _line(points: list[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    """Points from 0 to 1 both ways."""
    width, height = WIDTH - 8 - MARGIN, HEIGHT - 44
    text = " ".join(f"{MARGIN + x * width:.1f},{20 + (1 - y) * height:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>'


def _legend(entries: list[tuple[str, str]]) -> list[str]:
    return [
        f'<text x="{MARGIN + 130 * index}" y="{HEIGHT - 6}" font-size="11" fill="{colour}">{name}</text>'
        for index, (name, colour) in enumerate(entries)
    ]


def _svg(width: int, height: int, lines: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" role="img">{"".join(lines)}</svg>'
    )


def junit(document: dict[str, Any], verdict: Verdict) -> str:
    """One test case a metric and one for the whole: failures where it fails, errors where nothing is shown, skipped where not needed."""
    suite = ET.Element("testsuite", name=f"sidelight verify {document['target']}", time=f"{verdict.seconds:.1f}")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}

    def case(name: str, outcome: str, text: str) -> None:
        counts["tests"] += 1
        element = ET.SubElement(suite, "testcase", classname=document["target"], name=name)
        tag = {FAIL: "failure", INCONCLUSIVE: "error", "skipped": "skipped"}.get(outcome)
        if tag:
            counts["skipped" if tag == "skipped" else f"{tag}s"] += 1
            ET.SubElement(element, tag, message=text)

    for metric in verdict.metrics:
        decides = metric.weight == "required" or (metric.weight == "guard" and metric.verdict == FAIL)
        outcome = metric.verdict if decides or metric.verdict == PASS else "skipped"
        case(metric.name, outcome, "; ".join(metric.reasons) or f"beyond {percent(metric.limit)}")
    case("verdict", verdict.verdict, verdict.sentence)
    for name, count in counts.items():
        suite.set(name, str(count))
    return ET.tostring(suite, encoding="unicode")
