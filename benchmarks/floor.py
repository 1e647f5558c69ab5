"""Empty programs on the hooks that Sidelight uses: what the hooks themselves cost, whoever uses them."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from sidelight.agent import bpf
from sidelight.agent.loader import HOOKS, Hook
from sidelight.agent.source import ProgramCost

# r0 = 1; exit: "go on" for every one of these hooks
EMPTY = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)


class Floor:
    """The empty programs, by hook."""

    def __init__(self, programs: dict[str, int]) -> None:
        self._programs = programs

    def costs(self) -> list[ProgramCost]:
        """As Source.costs()."""
        infos = {hook: bpf.program_info(fd) for hook, fd in self._programs.items()}
        return [ProgramCost(hook, info.run_time_ns, info.run_count) for hook, info in infos.items()]


@contextlib.contextmanager
def attached(cgroup: Path, open_program: Callable[[str, Hook], int]) -> Iterator[dict[str, int]]:
    """Programs on their hooks for the length of the block: descriptors by hook, as `open_program` gives them."""
    descriptors = [os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)]
    programs = {}
    try:
        for name, hook in HOOKS.items():
            if hook.attach_type >= 0:
                programs[name] = open_program(name, hook)
                descriptors.append(programs[name])
                # the link goes with its descriptor
                descriptors.append(bpf.create_link(programs[name], descriptors[0], hook.attach_type))
        yield programs
    finally:
        for descriptor in reversed(descriptors):
            os.close(descriptor)


def _empty(name: str, hook: Hook) -> int:
    return bpf.load_program(hook.program_type, hook.expected, f"empty_{name}", bpf.Code(EMPTY)).fd


@contextlib.contextmanager
def floor(cgroup: Path) -> Iterator[Floor]:
    """The empty programs, attached for the length of the block."""
    with attached(cgroup, _empty) as programs:
        yield Floor(programs)
