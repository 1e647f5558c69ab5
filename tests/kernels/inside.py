"""Runs in a guest: `python3 -m tests.kernels.inside PART...`. What it says on the console is what __main__ reads there.

== begin PART
== said KIND {json}
== end PART STATUS SECONDS
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE = "15"
"""The guest is about so many times slower: conditions are waited for so much longer (tests/observed.py)."""


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--tb=short", "--timeout=1500", *arguments]


COMMANDS: dict[str, list[list[str]]] = {
    "load": [[sys.executable, "-m", "tests.kernels.loaded"]],
    "counts": [_pytest("tests/end_to_end/test_servers.py", "-k", "saturation")],
    "exact": [_pytest("tests/end_to_end/test_routes.py", "-k", "templates")],
    "corpus": [_pytest("tests/kernel/test_http.py", "-k", "at_once or dropped")],
    "http2": [
        _pytest(
            "tests/kernel/test_http2.py",
            "tests/end_to_end/test_calls.py",
            "-k",
            "0] or joined or dropped or every_case or http_2_has_routes",
        )
    ],
    "stores": [
        _pytest("tests/kernel/test_redis.py", "tests/kernel/test_memcached.py", "-k", "not benchmark or 16"),
    ],
    "life": [_pytest("tests/kernel/test_tcp.py", "tests/kernel/test_loader.py", "tests/kernel/test_handover.py")],
    "shop": [
        [sys.executable, "-m", "sidelight.cli.main", "demo"],
        _pytest("tests/end_to_end/test_kubernetes.py", "-k", "shop"),
    ],
    "privileges": [_pytest("tests/image/test_image.py", "-k", "each_privilege", "-s")],
    "observers": [[sys.executable, "-m", "tests.kernels.observers"]],
}
"""What a part runs, one after the other, in the tree's directory."""


def say(kind: str, what: Any) -> None:
    print(f"== said {kind} {json.dumps(what)}", flush=True)


def main(parts: list[str]) -> None:
    say("kernel", {"release": platform.release(), "machine": platform.machine()})
    environment = {**os.environ, "SIDELIGHT_PATIENCE": PATIENCE, "COLUMNS": "160"}
    for part in parts:
        print(f"== begin {part}", flush=True)
        began = time.monotonic()
        status = 0
        for command in COMMANDS[part]:
            status = (
                status or subprocess.run(command, env=environment, check=False, stdin=subprocess.DEVNULL).returncode
            )
        print(f"== end {part} {status} {time.monotonic() - began:.0f}", flush=True)
    Path("/proc/sys/kernel/printk").write_text("7")


if __name__ == "__main__":
    main(sys.argv[1:])
