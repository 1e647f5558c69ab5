"""What the packages import is what pyproject.toml asks for: the image has nothing else."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = {"kubernetes", "bcc"}
"""bcc is Debian's, for compiling; kubernetes is an extra."""


def imported() -> set[str]:
    found: set[str] = set()
    for package in ("agent", "identity", "exporter", "cli"):
        for path in set((ROOT / package).rglob("*.py")) - {ROOT / "exporter/proto/generate.py"}:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(
                        node.module
                        if node.module.startswith(("google", "opentelemetry"))
                        else node.module.partition(".")[0]
                    )
    return {
        name for name in found if name not in sys.stdlib_module_names and not name.startswith(("sidelight", "tests"))
    }


def test_every_import_is_a_dependency() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[><=\[ ]", item)[0].lower() for item in declared}
    known = packages_distributions()
    missing = set()
    for module in imported() - OPTIONAL:
        if module.startswith("google"):
            continue  # protobuf's namespace package
        if module.startswith("opentelemetry"):
            continue  # the exporter brings the protocol's messages
        if not {name.lower().replace("_", "-") for name in known.get(module, [])} & names:
            missing.add(module)
    assert not missing
