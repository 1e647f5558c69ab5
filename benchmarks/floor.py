"""Empty programs on the hooks that Sidelight uses: what the hooks themselves cost, whoever uses them."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from sidelight.agent import bpf
from sidelight.agent.loader import HOOKS

# r0 = 1; exit: "go on" for every one of these hooks
EMPTY = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)


class Floor:
    """The empty programs, by hook."""

    def __init__(self, programs: dict[str, int]) -> None:
        self._programs = programs

    def costs(self) -> dict[str, tuple[int, int]]:
        """hook -> (ns, runs) so far."""
        infos = {hook: bpf.program_info(fd) for hook, fd in self._programs.items()}
        return {hook: (info.run_time_ns, info.run_count) for hook, info in infos.items()}


@contextlib.contextmanager
def floor(cgroup: Path) -> Iterator[Floor]:
    """Attached for the length of the block; the links go with their descriptors."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    programs, links = {}, []
    try:
        for name, hook in HOOKS.items():
            if hook.attach_type >= 0:
                programs[name], _ = bpf.load_program(hook.program_type, hook.expected, f"empty_{name}", EMPTY)
                links.append(bpf.create_link(programs[name], directory, hook.attach_type))
        yield Floor(programs)
    finally:
        for descriptor in (*links, *programs.values(), directory):
            os.close(descriptor)
