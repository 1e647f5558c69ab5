"""Runs the benchmarks and writes docs/benchmarks.md: `python -m benchmarks.report [--smoke] [--json] [NAME...]`."""

from __future__ import annotations

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
    identity_accuracy,
    identity_scale,
    overhead,
    program_cost,
    span_cost,
)
from sidelight import __version__

BENCHMARKS: dict[str, tuple[Any, Callable[[], Any], Callable[[], Any]]] = {
    "program_cost": (program_cost, program_cost.run, lambda: program_cost.run(0.3)),
    "overhead": (overhead, overhead.run, lambda: overhead.run(1, 0.3)),
    "agent_cost": (agent_cost, agent_cost.run, lambda: agent_cost.run(0.5, (0, 1000))),
    "identity_accuracy": (identity_accuracy, identity_accuracy.run, lambda: identity_accuracy.run(2000, 40, 6)),
    "identity_scale": (identity_scale, identity_scale.run, lambda: identity_scale.run((1000,))),
    "span_cost": (span_cost, span_cost.run, lambda: span_cost.run(2000)),
    "exposition_scale": (exposition_scale, exposition_scale.run, lambda: exposition_scale.run((100,))),
}
REPORT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
KEPT = REPORT.with_suffix(".json")


def main() -> int:
    smoke, as_json = "--smoke" in sys.argv, "--json" in sys.argv
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or list(BENCHMARKS)
    results = {}
    for name in names:
        start = time.monotonic()
        _, full, small = BENCHMARKS[name]
        results[name] = (small if smoke else full)()
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    if as_json:
        print(json.dumps(results, indent=2))
    else:
        print(text(results))
    if not smoke:
        # each benchmark's last run is kept, so that one can be run again by itself
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        kept |= {
            name: {"at": time.strftime("%Y-%m-%d"), "machine": machine(), "result": result}
            for name, result in results.items()
        }
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        REPORT.write_text(text({name: kept[name]["result"] for name in BENCHMARKS if name in kept}, kept))
    return 0


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


def text(results: dict[str, Any], kept: dict[str, Any] | None = None) -> str:
    """Markdown: a section a benchmark, a table a level."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. The machine is shared and noisy: ratios and bpf_stats figures travel, absolute rates do not.",
    ]
    for name, result in results.items():
        module = BENCHMARKS[name][0]
        lines += ["", f"## {name}", "", (module.__doc__ or "").strip(), "", f"`python -m benchmarks.report {name}`", ""]
        if kept:
            lines += [f"{kept[name]['at']}: {kept[name]['machine']}.", ""]
        rows = {key: value for key, value in result.items() if isinstance(value, dict)}
        for key, value in result.items():
            if not isinstance(value, dict):
                lines += [f"{key.replace('_', ' ')}: {value}", ""]
        columns = [c for c in next(iter(rows.values()), {}) if not isinstance(next(iter(rows.values()))[c], dict)]
        lines += ["| | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|---|" + "---|" * len(columns)]
        lines += [f"| {key} | " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for key, row in rows.items()]
        for key, row in rows.items():
            for hook, cost in row.get("by_hook", {}).items():
                lines.append(f"\n{key}, {hook}: {cost['ns_a_run']} ns a run, {cost['runs']} runs")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
