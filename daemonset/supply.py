"""From the lock file: docs/licences.md and daemonset/sbom.json (CycloneDX). `make lock` runs it; the packages must be installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, SBOM, LICENCES = (
    ROOT / "daemonset" / "requirements.lock",
    ROOT / "daemonset" / "sbom.json",
    ROOT / "docs" / "licences.md",
)


def locked() -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([a-zA-Z0-9._-]+)==([^ \\]+)", LOCK.read_text(), re.M))


def licence(package: str) -> str:
    """What the package's own metadata says: the SPDX expression, else its classifiers, else the first line of its text."""
    found = metadata.metadata(package)
    if expression := found.get("License-Expression"):
        return expression
    classifiers = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    text = (found.get("License") or "unknown").strip().splitlines()[0][:60]
    return ", ".join(c for c in classifiers if c != "OSI Approved") or text


def licences() -> str:
    rows = [
        "# Licences",
        "",
        "Sidelight is Apache-2.0, its BPF programs GPL-2.0-only OR BSD-2-Clause. What the image holds besides Debian's packages (whose",
        "licences are in /usr/share/doc of a Debian machine), from daemonset/requirements.lock by `make lock`:",
        "",
        "| package | version | licence |",
        "|---|---|---|",
    ]
    return (
        "\n".join(rows + [f"| {name} | {version} | {licence(name)} |" for name, version in sorted(locked().items())])
        + "\n"
    )


def main() -> None:
    LICENCES.write_text(licences())
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--of", "JSON", "-o", str(SBOM), str(LOCK)],
        check=True,
    )  # fmt: skip
    bill = json.loads(SBOM.read_text())
    for component in bill["components"]:
        component.pop("externalReferences", None)  # where an index keeps the files is no part of what they are
    SBOM.write_text(json.dumps(bill, indent=1) + "\n")


if __name__ == "__main__":
    main()
