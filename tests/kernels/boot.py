"""Boots a guest and follows its console until it powers itself off."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kernels.guests import MACHINES, Guest
from tests.kernels.images import Boot

MARK = re.compile(r"== (begin|said|end) (\S+)(?: (.*))?$")
SILENCE_S = 1500.0
"""A guest that says nothing for so long is given up."""


@dataclass
class Run:
    """What a guest has said. `parts`: (exit status, seconds) by part; a part that did not end is not in it."""

    guest: Guest
    console: Path
    parts: dict[str, tuple[int, float]] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def passed(self, parts: tuple[str, ...]) -> bool:
        return all(self.parts.get(part, (1, 0.0))[0] == 0 for part in parts)

    def read(self, line: str) -> None:
        match = MARK.search(line.rstrip())
        if not match:
            return
        kind, name, rest = match.groups()
        if kind == "end":
            status, seconds = rest.split()
            self.parts[name] = (int(status), float(seconds))
        elif kind == "said":
            self.said[name] = json.loads(rest)


def run(
    guest: Guest, files: Boot, tree: Path, parts: tuple[str, ...], console: Path, *, write: bool, verbose: bool
) -> Run:
    """Runs the parts in the guest. Its console is kept in a file; `verbose`: and shown. `write`: the record is to be written anew, so differing is no failure."""
    machine = MACHINES[guest.machine]
    command = [
        *machine.qemu, "-accel", "tcg,thread=multi", "-smp", "2", "-m", "4096", "-display", "none", "-serial", "stdio", "-monitor", "none",
        "-no-reboot", "-nic", "none", "-kernel", str(files.kernel), "-initrd", str(files.initramfs),
        "-append", f"console={machine.console} quiet panic=-1 mitigations=off sidelight.parts={','.join(parts)}{' sidelight.write' if write else ''}",
        "-drive", f"file={files.disk},if=virtio,format=raw,snapshot=on", "-drive", f"file={tree},if=virtio,format=raw,readonly=on",
    ]  # fmt: skip
    found = Run(guest, console)
    began = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    watchdog = threading.Timer(SILENCE_S, process.kill)
    watchdog.start()
    try:
        with console.open("wb") as kept:
            for raw in process.stdout:
                watchdog.cancel()
                watchdog = threading.Timer(SILENCE_S, process.kill)
                watchdog.start()
                kept.write(raw)
                kept.flush()
                line = raw.decode("utf-8", "replace")
                found.read(line)
                if verbose or MARK.search(line.rstrip()):
                    sys.stdout.write(f"[{guest.name} {time.monotonic() - began:5.0f} s] {line.rstrip()[:300]}\n")
                    sys.stdout.flush()
        process.wait(30)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
    found.seconds = time.monotonic() - began
    return found
