"""Compiles bpf/ with BCC into an artifact that any kernel can load: instructions, and which maps they name.

BCC creates maps while it compiles, to have descriptors to write into the instructions. Those are thrown away: the
artifact keeps names, so that the loader decides on sizes and on which pinned maps to go on with. LLVM costs 120 MB, so
this runs in a process of its own, or at build time (`sidelight compile`).
"""

from __future__ import annotations

import ctypes as ct
import hashlib
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sidelight.agent import layout
from sidelight.agent.errors import UnsupportedFeature

BPF_LD_IMM64 = 0x18
BPF_PSEUDO_MAP_FD = 1
BPF_PSEUDO_CALL = 1
BPF_PSEUDO_FUNC = 4
CALLBACK_MARK, WALKED_MARK = 0x51DE, 0x51DF
"""Upper half of the constant that stands for a callback; the lowest byte says which (bpf/turns.h). The second one's loop may be
walked by a verifier instead, on kernels without bpf_loop(): what is above that byte says how many turns of it."""
BPF_LOOP = struct.pack("<BBhi", 0x85, 0, 0, 181)
"""call bpf_loop"""
SECOND_ARGUMENT_FIRST = struct.pack("<BBhi", 0xBF, 0x21, 0, 0)
"""r1 = r2. bpf_loop() calls with an index and a context; BCC knows functions of a context alone."""


class MapSpec(msgspec.Struct, frozen=True):
    """A map as the C sources declare it; `inner` names the prototype of an array of maps."""

    name: str
    type: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int
    inner: str = ""


class ProgramSpec(msgspec.Struct, frozen=True):
    """Instructions of 8 bytes; `maps` are (index of the instruction, name of the map), `callbacks` where those begin."""

    name: str
    instructions: bytes
    maps: list[tuple[int, str]]
    callbacks: list[int] = []
    walked: ProgramSpec | None = None
    """For kernels without bpf_loop(), where that can be."""


class Artifact(msgspec.Struct, frozen=True):
    """Everything the loader needs. `source` identifies the C text it was made from."""

    source: str
    layout: str
    maps: list[MapSpec]
    programs: list[ProgramSpec]


def source_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


PREBUILT = Path(os.environ.get("SIDELIGHT_PROGRAMS", "/usr/lib/sidelight/programs.msgpack"))


CACHE = Path("/var/cache/sidelight/programs.msgpack")
"""What the last compilation on this machine made: compiling takes two seconds, loading a tenth."""


def save(artifact: Artifact, path: Path) -> None:
    """Writes an artifact, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(msgspec.msgpack.encode(artifact))
    scratch.rename(path)


def prebuilt(path: Path) -> Artifact | None:
    """The artifact in a file, if it is of these very sources."""
    try:
        artifact = msgspec.msgpack.decode(path.read_bytes(), type=Artifact)
    except (OSError, msgspec.MsgspecError):
        return None
    return artifact if artifact.source == source_hash(layout.programs_text()) else None


def _include_flags() -> list[str]:
    triplet = f"{platform.machine()}-linux-gnu"
    return ["-idirafter", "/usr/include", "-idirafter", f"/usr/include/{triplet}"]


def compile_programs(stub_tree: Path) -> Artifact:
    """Compiles with BCC. Raises UnsupportedFeature without it; BCC itself prints what the compiler found wrong."""
    os.environ["BCC_KERNEL_SOURCE"] = str(stub_tree)
    try:
        from bcc import BPF, lib
    except ImportError:
        raise UnsupportedFeature(
            "BCC is missing and no prebuilt programs were found; install Debian's python3-bpfcc"
        ) from None
    text = layout.programs_text()
    module = BPF(text=text, cflags=[*_include_flags(), "-Wall", "-Werror", "-Wno-unused-function"])
    handle = module.module
    lib.bpf_table_name.restype = ct.c_char_p
    lib.bpf_table_name.argtypes = [ct.c_void_p, ct.c_ulonglong]
    names: dict[int, str] = {}
    maps = []
    for index in range(lib.bpf_num_tables(handle)):
        name = lib.bpf_table_name(handle, index).decode()
        names[lib.bpf_table_fd(handle, name.encode())] = name
        kind = lib.bpf_table_type_id(handle, index)
        maps.append(
            MapSpec(
                name=name,
                type=kind,
                key_bytes=lib.bpf_table_key_size_id(handle, index),
                value_bytes=lib.bpf_table_leaf_size_id(handle, index),
                entries=lib.bpf_table_max_entries_id(handle, index),
                flags=lib.bpf_table_flags_id(handle, index),
                inner=f"{name}_a" if name in ("edges", "latencies") else "",
            )
        )
    code = {}
    for index in range(lib.bpf_num_functions(handle)):
        name = lib.bpf_function_name(handle, index).decode()
        code[name] = module.dump_func(name.encode())
    callbacks = layout.callbacks()
    programs = []
    for name, instructions in code.items():
        if name not in callbacks:
            bodies = [code[callback] for callback in callbacks]
            linked, starts = link(instructions, bodies)
            walked = link_walked(instructions, bodies)
            programs.append(
                ProgramSpec(
                    name,
                    linked,
                    _map_references(linked, names),
                    starts,
                    ProgramSpec(name, walked, _map_references(walked, names)) if walked else None,
                )
            )
    return Artifact(source_hash(text), layout.layout_hash(), maps, programs)


def _marks(code: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """(index of the instruction, mark, lower half) of each constant that stands for a callback, those added meanwhile too."""
    index = 0
    while index < len(code) // 8:
        opcode, registers, _, low = struct.unpack_from("<BBhI", code, index * 8)
        if opcode == BPF_LD_IMM64:
            (high,) = struct.unpack_from("<I", code, index * 8 + 12)
            if registers >> 4 == 0 and high in (CALLBACK_MARK, WALKED_MARK):
                yield index, high, low
            index += 1
        index += 1


def link(program: bytes, callbacks: list[bytes]) -> tuple[bytes, list[int]]:
    """The program with the callbacks that it names behind it, and the indexes of their first instructions.

    BCC compiles functions one by one and knows none as a value: in the source a constant stands for it (bpf/turns.h), which
    becomes what the kernel calls BPF_PSEUDO_FUNC, a distance in instructions. A callback may name another one.
    """
    whole = bytearray(program)
    starts: dict[int, int] = {}
    for index, _, low in _marks(whole):
        number = low & 0xFF
        if number not in starts:
            starts[number] = len(whole) // 8
            whole += SECOND_ARGUMENT_FIRST + callbacks[number]
        opcode, registers = whole[index * 8 : index * 8 + 2]
        struct.pack_into(
            "<BBhi", whole, index * 8, opcode, registers | BPF_PSEUDO_FUNC << 4, 0, starts[number] - index - 1
        )
        struct.pack_into("<I", whole, index * 8 + 12, 0)
    return bytes(whole), sorted(starts.values())


def link_walked(program: bytes, callbacks: list[bytes]) -> bytes | None:
    """The program for kernels without bpf_loop(): a function of ours that calls the callback a few times takes its place.

    None for a program that names no callback, or one whose loop cannot do with so few turns.
    """
    whole = bytearray(program)
    marks = list(_marks(whole))
    if not marks or any(mark != WALKED_MARK for _, mark, _ in marks):
        return None
    for index, _, low in marks:
        number, turns = low & 0xFF, low >> 8
        call = whole.index(BPF_LOOP, index * 8)
        while call % 8:
            call = whole.index(BPF_LOOP, call + 1)
        loop = len(whole) // 8
        body = loop + len(_walk(0, turns)) // 8
        whole += _walk(body - loop, turns) + callbacks[number]
        struct.pack_into("<I", whole, index * 8 + 4, 0)
        struct.pack_into("<I", whole, index * 8 + 12, 0)
        struct.pack_into("<BBhi", whole, call, 0x85, BPF_PSEUDO_CALL << 4, 0, loop - call // 8 - 1)
        if any(mark for _, mark, _ in _marks(callbacks[number])):
            return None  # a loop in a loop
    return bytes(whole)


def _walk(body: int, turns: int) -> bytes:
    """bpf_loop(times, callback, context, flags) for one callback, `body` instructions ahead of this function's start."""
    return b"".join(
        struct.pack("<BBhi", *instruction)
        for instruction in (
            (0xBF, 0x36, 0, 0),  # r6 = r3: the context
            (0xB7, 0x07, 0, 0),  # r7 = 0
            (0xBF, 0x61, 0, 0),  # again: r1 = r6
            (0x85, BPF_PSEUDO_CALL << 4, 0, body - 4),  # call the callback
            (0x55, 0x00, 2, 0),  # if r0 != 0 goto out
            (0x07, 0x07, 0, 1),  # r7 += 1
            (0xA5, 0x07, -5, turns),  # if r7 < turns goto again
            (0xBF, 0x70, 0, 0),  # out: r0 = r7
            (0x95, 0x00, 0, 0),  # exit
        )
    )


def _map_references(code: bytes, names: dict[int, str]) -> list[tuple[int, str]]:
    """Where the instructions (struct bpf_insn) name a map."""
    found = []
    for index in range(len(code) // 8):
        opcode, registers, _, immediate = struct.unpack_from("<BBhi", code, index * 8)
        if opcode == BPF_LD_IMM64 and registers >> 4 == BPF_PSEUDO_MAP_FD:
            found.append((index, names[immediate]))
    return found


def relocate(program: ProgramSpec, descriptors: dict[str, int]) -> bytes:
    """The instructions with this process's descriptors in the places of the names."""
    code = bytearray(program.instructions)
    for index, name in program.maps:
        struct.pack_into("<i", code, index * 8 + 4, descriptors[name])
    return bytes(code)
