"""Runs the benchmarks and writes docs/benchmarks.md with its plots.

Each benchmark's last two runs are kept in docs/benchmarks.json, so that one can be run again by itself and the report can say
how far a second run was from the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    agent_cost,
    exposition_scale,
    goals,
    identity_accuracy,
    identity_scale,
    overhead,
    peers,
    plots,
    policy_scale,
    program_cost,
    soak,
    span_cost,
    verify_accuracy,
)
from sidelight import __version__

BENCHMARKS: dict[str, tuple[Any, Callable[[], Any], Callable[[], Any], str]] = {
    "program_cost": (program_cost, program_cost.run, lambda: program_cost.run(0.3, 1), "1 min"),
    "overhead": (overhead, overhead.run, lambda: overhead.run(1, 0.3), "7 min"),
    "peers": (peers, peers.run, lambda: peers.run(1, 0.3), "2 min"),
    "agent_cost": (agent_cost, agent_cost.run, lambda: agent_cost.run(0.5, (0, 1000), (10, 100)), "2 min"),
    "identity_accuracy": (
        identity_accuracy,
        identity_accuracy.run,
        lambda: identity_accuracy.run(2000, 40, 6),
        "5 min",
    ),
    "identity_scale": (identity_scale, identity_scale.run, lambda: identity_scale.run((1000,)), "1 min"),
    "span_cost": (span_cost, span_cost.run, lambda: span_cost.run(2000), "10 s"),
    "verify_accuracy": (verify_accuracy, verify_accuracy.run, lambda: verify_accuracy.run(10, 10), "25 min"),
    "policy_scale": (policy_scale, policy_scale.run, lambda: policy_scale.run(((100, 30, 500),)), "15 s"),
    "exposition_scale": (exposition_scale, exposition_scale.run, lambda: exposition_scale.run((100,)), "10 s"),
}
"""Name -> (module, the whole run, a tiny one, how long the whole one takes)."""
REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
KEPT = REPORT.with_suffix(".json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all of them when none is given"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="tiny runs: that they run, not what they say; nothing is written"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON too")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark is called {', '.join(unknown)}")
    smoke, as_json = options.smoke, options.json
    names = options.names or list(BENCHMARKS)
    results = {}
    for number, name in enumerate(names, 1):
        _, full, small, length = BENCHMARKS[name]
        print(f"[{number}/{len(names)}] {name}" + ("" if smoke else f", about {length}"), file=sys.stderr, flush=True)
        start = time.monotonic()
        results[name] = (small if smoke else full)()
        print(f"    took {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        if not smoke:
            keep(name, results[name])
    if as_json:
        print(json.dumps(results, indent=2))
    elif smoke:
        print("\n".join(section(name, BENCHMARKS[name][0].__doc__, result) for name, result in results.items()))
    else:
        print(f"written: {REPORT.relative_to(Path.cwd()) if REPORT.is_relative_to(Path.cwd()) else REPORT}")
    return 0


def keep(name: str, result: dict[str, Any]) -> None:
    """Puts a result into docs/benchmarks.json, the one before it beside it, and writes the report anew."""
    kept = _kept()
    run = {"at": time.strftime("%Y-%m-%d"), "machine": machine(), "result": result}
    if name in kept and kept[name]["machine"] == run["machine"]:
        run["before"] = kept[name]["result"]
    kept[name] = run
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    write(kept)


def write(kept: dict[str, Any]) -> None:
    """docs/benchmarks.md and docs/benchmarks/*.svg."""
    pictures = plots.draw({name: run["result"] for name, run in kept.items()}, REPORT.with_suffix(""))
    REPORT.write_text(text(kept, pictures))


def _kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def machine() -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    return f"sidelight {__version__}, kernel {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores, {cpu}"


def text(kept: dict[str, Any], pictures: dict[str, list[str]]) -> str:
    """The report: goals, two runs compared, then a section a benchmark."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (about twenty minutes) on any Linux machine. This one is shared and noisy: ratios of alternating runs and",
        "bpf_stats figures travel, absolute rates do not; what the machine does to a figure is said beside it.",
        "",
        "## Goals",
        "",
        *goals.table(kept),
        "",
        goals.TRIED,
        "",
        "## A second run",
        "",
        *goals.two_runs(kept),
    ]
    modules = {**{name: entry[0] for name, entry in BENCHMARKS.items()}, "soak": soak}
    for name, module in modules.items():
        if name not in kept:
            continue
        lines += [section(name, module.__doc__, kept[name]["result"], f"{kept[name]['at']}: {kept[name]['machine']}.")]
        lines += [f"![{name}](benchmarks/{picture})\n" for picture in pictures.get(name, [])]
    return "\n".join(lines).rstrip() + "\n"


def section(name: str, about: str | None, result: dict[str, Any], where: str = "") -> str:
    """Markdown: a benchmark's tables."""
    command = "benchmarks.soak" if name == "soak" else f"benchmarks.report {name}"
    lines = ["", f"## {name}", "", (about or "").strip(), "", f"`python -m {command}`", ""]
    lines += [where, ""] if where else []
    lines += [
        f"- {key.replace('_', ' ')}: {value}" for key, value in result.items() if not isinstance(value, dict | list)
    ]
    rows = {key: value for key, value in result.items() if isinstance(value, dict)}
    if rows and all(isinstance(cell, dict) for row in rows.values() for cell in row.values()):
        for title, table in rows.items():
            lines += ["", f"{title[0].upper()}{title[1:]}:", *_table(table)]
        return "\n".join([*lines, ""])
    lines += _table(rows)
    hooks = {key: row["by_hook"] for key, row in rows.items() if row.get("by_hook")}
    if hooks:
        lines += ["", "| by hook | runs | ns a run |", "|---|---|---|"]
        for key, by_hook in hooks.items():
            lines += [f"| {key}, {hook} | {cost['runs']} | {cost['ns_a_run']} |" for hook, cost in by_hook.items()]
    return "\n".join([*lines, ""])


def _table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown, a row a key."""
    columns = list(dict.fromkeys(c for row in rows.values() for c in row if not isinstance(row[c], dict)))
    if not rows:
        return []
    head = ["", "| | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|---|" + "---|" * len(columns)]
    return head + [f"| {key} | " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for key, row in rows.items()]


if __name__ == "__main__":
    sys.exit(main())
