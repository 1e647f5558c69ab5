"""Files made from other files: written by `make docs`, compared by `make check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from daemonset import grafana, seccomp
from sidelight.agent import layout
from sidelight.exporter import catalog
from tests.helm import render

ROOT = Path(__file__).resolve().parent.parent


def layout_golden() -> str:
    """Offsets and sizes of everything kernel and user space share: a change here is a change of layout, made on purpose."""
    lines = []
    for name, dtype in layout.parse_structs(layout.source("types.h")).items():
        lines.append(f"{name} {dtype.itemsize}")
        lines += [f"  {field} {dtype.fields[field][1]} {dtype.fields[field][0]}" for field in dtype.names or ()]  # type: ignore[index]
    return "\n".join(lines) + "\n"


def _dashboard(name: str) -> Callable[[], str]:
    return lambda: json.dumps(grafana.dashboard(name), indent=1) + "\n"


GENERATED: dict[str, Callable[[], str]] = {
    "docs/metrics.md": catalog.markdown,
    "tests/unit/agent/layout.golden": layout_golden,
    "daemonset/seccomp.json": seccomp.profile,
    "daemonset/manifests.yaml": render.manifests,
    **{f"daemonset/dashboards/{name}.json": _dashboard(name) for name in grafana.DASHBOARDS},
}


def main() -> int:
    stale = []
    for name, make in GENERATED.items():
        path, text = ROOT / name, make()
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        print("not current, run `make docs`:", ", ".join(stale))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
