"""Go programs of the tests, built with Debian's libraries, once a machine."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent


@cache
def built(name: str) -> Path:
    """The binary of NAME.go."""
    source, binary = HERE / f"{name}.go", HERE / f".{name}"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        env = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "GOCACHE": "/tmp/sidelight-go-cache"}  # fmt: skip
        subprocess.run(["go", "build", "-o", str(binary), str(source)], check=True, env=env)
    return binary
