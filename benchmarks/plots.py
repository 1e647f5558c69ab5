"""The report's plots, as SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

OURS, FLOOR, GOAL, OTHER = "#1f6feb", "#b9c2cf", "#d1242f", "#8c959f"
mpl.rcParams.update(
    {
        "svg.hashsalt": "sidelight",  # the same figures, the same file
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.constrained_layout.use": True,
    }
)


def draw(results: dict[str, Any], directory: Path) -> dict[str, list[str]]:
    """Benchmark -> names of the files drawn below `directory`."""
    directory.mkdir(exist_ok=True)
    drawn: dict[str, list[str]] = {}
    for name, plot in PLOTS.items():
        if name in results:
            figure = plot(results[name])
            path = directory / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            # matplotlib ends some lines with blanks
            path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
            plt.close(figure)
            drawn[name] = [path.name]
    return drawn


def _legend_below(figure: Any) -> None:
    figure.legend(frameon=False, ncols=4, loc="outside lower center")


def _program_cost(result: dict[str, Any]) -> Any:
    """ns a run by load, the floor's part of it apart."""
    rows = {name: row for name, row in result.items() if row.get("ns_a_run")}
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(rows) + 1.4))
    names = list(rows)[::-1]
    floors = [rows[name]["floor_ns_a_run"] for name in names]
    axes.barh(names, floors, color=FLOOR, label="empty programs (mostly the clock)")
    axes.barh(
        names,
        [rows[n]["ns_a_run"] - f for n, f in zip(names, floors, strict=True)],
        left=floors,
        color=OURS,
        label="Sidelight",
    )
    for index, name in enumerate(names):
        axes.text(rows[name]["ns_a_run"] + 4, index, f"{rows[name]['ns_a_run']} ns", va="center")
    axes.axvline(150, color=GOAL, linestyle="--", linewidth=1, label="goal")
    axes.set_xlabel("ns a program run (bpf_stats)")
    axes.set_title("Cost of the kernel programs")
    _legend_below(figure)
    return figure


def _overhead(result: dict[str, Any]) -> Any:
    """Ratios with their intervals, and the floor."""
    rows = {name: row for name, row in result.items() if "ratio" in row}
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(rows) + 1.4))
    for index, name in enumerate(list(rows)[::-1]):
        row = rows[name]
        error = [[row["ratio"] - row["low"]], [row["high"] - row["ratio"]]]
        axes.errorbar(
            row["ratio"], index, xerr=error, fmt="o", color=OURS, capsize=3, label="observed" if index == 0 else None
        )
        if row.get("floor"):
            axes.plot(row["floor"], index, "|", color=OTHER, markersize=14, markeredgewidth=2)
    axes.plot([], [], "|", color=OTHER, markersize=10, markeredgewidth=2, label="empty programs")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows)[::-1])
    axes.set_xlabel("throughput observed / not observed (95 % interval)")
    axes.set_title("Throughput")
    _legend_below(figure)
    return figure


def _agent_cost(result: dict[str, Any]) -> Any:
    """CPU by rate and by edges."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    rates = sorted(
        (row["requests_a_second"], row["cpu_percent_of_a_core"])
        for name, row in result.items()
        if name.endswith("requests/s, 100 edges") or name.startswith("the most")
    )
    left.plot([rate for rate, _ in rates], [cpu for _, cpu in rates], "o-", color=OURS)
    left.axhline(2, color=GOAL, linestyle="--", linewidth=1)
    left.set_xlabel("requests a second, 100 edges")
    left.set_ylabel("agent, % of a core")
    left.set_ylim(bottom=0)
    edges = [
        (int(name.split(", ")[1].split()[0]), row)
        for name, row in result.items()
        if name.startswith("5000 requests/s") and name.endswith("edges")
    ]
    right.plot(
        [count for count, _ in edges],
        [row["cpu_percent_of_a_core"] for _, row in edges],
        "o-",
        color=OURS,
        label="% of a core",
    )
    right.plot(
        [count for count, _ in edges],
        [row["rss_mb"] / 10 for _, row in edges],
        "s-",
        color=OTHER,
        label="memory, 10 MB",
    )
    right.set_xscale("log")
    right.set_xlabel("edges, 5,000 requests a second")
    right.set_ylim(bottom=0)
    right.legend(frameon=False)
    figure.suptitle("Cost of the agent")
    return figure


def _peers(result: dict[str, Any]) -> Any:
    rows = {name: row for name, row in result.items() if "keep_alive_ratio" in row}
    figure, axes = plt.subplots(figsize=(8, 3))
    for index, (load, colour) in enumerate((("keep_alive", OURS), ("short", OTHER))):
        places = [at + index * 0.38 - 0.19 for at in range(len(rows))]
        values = [row[f"{load}_ratio"] for row in rows.values()]
        axes.bar(
            places,
            values,
            width=0.36,
            color=colour,
            label="keep-alive" if load == "keep_alive" else "a connection a request",
        )
        for place, value in zip(places, values, strict=True):
            axes.text(place, value + 0.01, f"{value:.2f}", ha="center", fontsize=8)
    axes.set_xticks(range(len(rows)), list(rows))
    axes.set_ylabel("throughput / unwatched")
    axes.set_ylim(0, 1.15)
    axes.set_title("The same load, watched in other ways")
    _legend_below(figure)
    return figure


def _identity_accuracy(result: dict[str, Any]) -> Any:
    rows = {name: row for name, row in result.items() if isinstance(row, dict) and "wrong" in row}
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1.2))
    left = [0.0] * len(rows)
    for kind, colour in (("right", OURS), ("by workload only", "#79b8ff"), ("unresolved", FLOOR), ("wrong", GOAL)):
        # those named by their workload alone are right too
        counts = [row[kind] - (row["by workload only"] if kind == "right" else 0) for row in rows.values()]
        values = [100 * count / row["ends"] for count, row in zip(counts, rows.values(), strict=True)]
        axes.barh(list(rows), values, left=left, color=colour, label=kind)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("% of connection ends")
    axes.set_title("Names: right, wrong and unresolved, while pods come and go")
    _legend_below(figure)
    return figure


def _soak(result: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(8, 2.6))
    axes.plot([at / 60 for at, _ in result["series"]], [mb for _, mb in result["series"]], "-", color=OURS)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes at half load with pods coming and going")
    axes.set_ylabel("agent, MB")
    axes.set_title("Memory over time")
    return figure


def _verify_accuracy(result: dict[str, Any]) -> Any:
    """False fails of every cell by kind of trouble, with and without the guards; and how soon what is worse is found."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), width_ratios=[1.2, 1])
    kinds = list(dict.fromkeys(cell[0] for cell in result["cells"]))
    for place, kind in enumerate(kinds):
        cells = [cell for cell in result["cells"] if cell[0] == kind]
        for column, shift, colour in ((5, -0.15, OURS), (6, 0.15, OTHER)):
            spread = [place + shift + 0.1 * (i / len(cells) - 0.5) for i in range(len(cells))]
            left.plot(spread, [max(cell[column], 5e-5) for cell in cells], ".", color=colour, markersize=4)
    left.plot([], [], ".", color=OURS, label="Sidelight")
    left.plot([], [], ".", color=OTHER, label="the same without its guards")
    left.axhline(0.05, color=GOAL, linestyle="--", linewidth=1)
    left.set_yscale("log")
    left.set_xticks(range(len(kinds)), [kind.replace(" ", "\n") for kind in kinds])
    left.set_ylabel("equal versions that fail, a dot a cell")
    left.legend(frameon=False, fontsize=8)
    rows = {name: row for name, row in result["found worse, or passed, and when"].items() if "->" in name}
    for judge, colour, marker in (("fail", OURS, "o"), ("Mann-Whitney", OTHER, "s"), ("threshold", "#bf8700", "^")):
        shares = [float(row[judge].split("%")[0]) for row in rows.values()]
        right.plot(shares, range(len(rows)), marker, color=colour, label="Sidelight" if judge == "fail" else judge)
    right.set_yticks(range(len(rows)), list(rows), fontsize=8)
    right.set_xlabel("% found worse within ten minutes")
    right.legend(frameon=False, fontsize=8)
    return figure


PLOTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "program_cost": _program_cost,
    "overhead": _overhead,
    "peers": _peers,
    "agent_cost": _agent_cost,
    "identity_accuracy": _identity_accuracy,
    "soak": _soak,
    "verify_accuracy": _verify_accuracy,
}
