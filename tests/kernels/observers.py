"""In a guest: Debian's BCC tools beside us over the same connections; what each saw, missed and named. `--part observers`.

Ten thousand connections between two cgroups: most of them ask and answer once, some are refused, some end by a reset.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sidelight.agent import layout
from sidelight.cli.demo import free_port
from tests.kernels.inside import say
from tests.observed import eventually, observed

OPENED, REFUSED, RESET = 9_000, 500, 500
SERVER = """
import socket, sys
l = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=512)
while True:
    s, _ = l.accept()
    try:
        if s.recv(64): s.sendall(b"x" * 100)
        s.recv(1)
    except ConnectionResetError: pass
    s.close()
"""
CLIENT = """
import socket, struct, sys
port, opened, refused, reset = map(int, sys.argv[1:])
def ask():
    s = socket.create_connection(("127.0.0.1", port)); s.sendall(b"hello"); s.recv(200); return s
for i in range(opened): ask().close()
for i in range(reset):
    s = ask(); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); s.close()
for i in range(refused):
    try: socket.create_connection(("127.0.0.1", 1))
    except ConnectionRefusedError: pass
"""


def tool(name: str, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen([f"/usr/sbin/{name}-bpfcc", *arguments], stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""})  # fmt: skip


def lines(path: Path, wanted: Callable[[list[str]], bool]) -> int:
    return sum(1 for line in path.read_text(errors="replace").splitlines() if (words := line.split()) and wanted(words))


def lost(path: Path) -> int:
    return sum(int(n) for n in re.findall(r"[Ll]ost (\d+) samples", path.read_text(errors="replace")))


def run(scratch: Path) -> dict[str, Any]:
    tools = {"tcplife": [], "tcptracer": [], "tcpconnect": [], "tcpretrans": []}
    with observed() as watch:
        port = free_port()
        server = watch.start("server", [sys.executable, "-I", "-c", SERVER, str(port)])
        running = {name: tool(name, scratch / name, *arguments) for name, arguments in tools.items()}
        try:
            for name in tools:  # each has compiled and attached when its heading is there
                eventually(lambda name=name: (scratch / name).stat().st_size > 0, 30, name)
            time.sleep(20)  # tcplife writes its heading before it is attached
            client = watch.start("client", [sys.executable, "-I", "-c", CLIENT, str(port), str(OPENED), str(REFUSED), str(RESET)])  # fmt: skip
            assert client.wait(1200) == 0
            totals = watch.settle()
            time.sleep(5)
        finally:
            for process in running.values():
                process.send_signal(signal.SIGINT)
            for process in running.values():
                process.wait(60)
        watch.processes.stop(server)
        counted = watch.source.counters()
        reasons = layout.FAIL_REASONS.index("refused")
        resets = layout.CLOSE_REASONS_NAMES.index("rst_local"), layout.CLOSE_REASONS_NAMES.index("rst_remote")
        both = [np.sum([totals.sum(role, "closed")[i] for i in resets]) for role in ("client", "server")]
        ours = {
            "attempts": int(totals.sum("client", "attempts")),
            "opened at the client": int(totals.sum("client", "opened")),
            "opened at the server": int(totals.sum("server", "opened")),
            "refused": int(totals.sum("client", "failed")[reasons]),
            "reset": int(min(both)),
            "lost": counted["lost_edge_map_full"] + counted["lost_connection_storage"],
            "named": "both ends by cgroup",
        }
    at = str(port)
    found = {
        "sidelight": ours,
        "tcplife": {
            "opened at the client": lines(scratch / "tcplife", lambda w: w[-4:-3] != [] and len(w) > 6 and w[5] == at),
            "opened at the server": lines(scratch / "tcplife", lambda w: len(w) > 6 and w[3] == at),
            "lost": lost(scratch / "tcplife"),
            "named": "pid and command, of whoever was on the CPU",
        },
        "tcptracer": {
            "opened at the client": lines(scratch / "tcptracer", lambda w: w[0] == "C" and w[-1] == at),
            "opened at the server": lines(scratch / "tcptracer", lambda w: w[0] == "A" and w[-2] == at),
            "lost": lost(scratch / "tcptracer"),
            "named": "pid and command",
        },
        "tcpconnect": {
            "attempts": lines(scratch / "tcpconnect", lambda w: w[-1] in (at, "1") and w[0].isdigit()),
            "refused": lines(scratch / "tcpconnect", lambda w: w[-1] == "1" and w[0].isdigit()),
            "lost": lost(scratch / "tcpconnect"),
            "named": "pid and command",
        },
        "tcpretrans": {"lost": lost(scratch / "tcpretrans"), "named": "none: nothing was retransmitted"},
    }
    for name in tools:
        print(f"-- {name}", *(scratch / name).read_text(errors="replace").splitlines()[:6], sep="\n   ")
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        found = run(Path(scratch))
    say("observers", found)
    ours = found["sidelight"]
    exact = (OPENED + REFUSED + RESET, OPENED + RESET, OPENED + RESET, REFUSED, RESET)
    return 0 if tuple(ours[key] for key in ours if key not in ("lost", "named")) == exact else 1


if __name__ == "__main__":
    sys.exit(main())
