"""Runs all tests: those that only compute beside those that mostly wait for kernels and servers, at the lowest priority.

None of the first kind measures anything, loads a program or opens a port that others know. Their output comes last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMPUTING = ("unit", "fuzz")
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def main() -> int:
    folders = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("test_*.py")))
    waiting = [str(ROOT / name) for name in folders if name not in COMPUTING]
    with tempfile.TemporaryFile("w+") as output:
        computing = subprocess.Popen(
            [*PYTEST, *(str(ROOT / name) for name in COMPUTING)],
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.nice(19),
        )
        try:
            first = subprocess.run([*PYTEST, *waiting], check=False).returncode
            second = computing.wait()
        finally:
            if computing.poll() is None:
                computing.terminate()
                computing.wait()
        output.seek(0)
        print(f"\n{' and '.join(COMPUTING)}, which ran beside them:\n{output.read()}", flush=True)
    return first or second


if __name__ == "__main__":
    sys.exit(main())
