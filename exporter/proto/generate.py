"""Generates the Python code of the .proto files beside this one: `python exporter/proto/generate.py [--check]`."""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent / "src"
NAMES = ("flow", "relay", "peer", "observer", "sidelight")


def generate(out: Path) -> None:
    """Writes *_pb2.py, *_pb2.pyi and *_pb2_grpc.py below `out`."""
    well_known = Path(protoc.__file__).parent / "_proto"
    sources = [f"sidelight/exporter/proto/{name}.proto" for name in NAMES]
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"-I{well_known}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
    ]
    if protoc.main(arguments + sources):
        raise SystemExit("protoc failed")


def main() -> int:
    if "--check" not in sys.argv:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        made = Path(scratch) / "sidelight/exporter/proto"
        stale = [
            path.name
            for path in sorted(made.iterdir())
            if not (HERE / path.name).exists() or not filecmp.cmp(path, HERE / path.name, False)
        ]
    if stale:
        print("not current, run `make proto`:", ", ".join(stale))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
