"""bpf(2) through libbpf: maps, programs, links, pins. The only module that makes these calls.

Map contents travel as numpy arrays or bytes; nothing here knows what they mean.
"""

from __future__ import annotations

import ctypes as ct
import errno
import mmap
import os
import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sidelight.agent.errors import BpfError, UnsupportedFeature

BPF_FS_MAGIC = 0xCAFE4A11
CGROUP2_MAGIC = 0x63677270

# enum bpf_map_type, linux/bpf.h
MAP_HASH, MAP_ARRAY, MAP_PROG_ARRAY, MAP_PERCPU_ARRAY = 1, 2, 3, 6
MAP_LRU_HASH, MAP_ARRAY_OF_MAPS, MAP_SK_STORAGE, MAP_RINGBUF = 9, 12, 24, 27
# enum bpf_prog_type
PROG_SOCKET_FILTER, PROG_CGROUP_SKB, PROG_CGROUP_SOCK, PROG_SOCK_OPS = 1, 8, 9, 13
# enum bpf_attach_type
ATTACH_INGRESS, ATTACH_EGRESS, ATTACH_SOCK_OPS, ATTACH_SOCK_RELEASE = 0, 1, 3, 34
BPF_ANY, BPF_NOEXIST = 0, 1
BPF_F_NO_PREALLOC = 1


class _MapOptions(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("map_extra", ct.c_uint64),
        ("numa_node", ct.c_uint32),
        ("map_ifindex", ct.c_uint32),
    ]


class _ProgramOptions(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("attempts", ct.c_int),
        ("expected_attach_type", ct.c_int),
        ("prog_btf_fd", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("prog_ifindex", ct.c_uint32),
        ("kern_version", ct.c_uint32),
        ("attach_btf_id", ct.c_uint32),
        ("attach_prog_fd", ct.c_uint32),
        ("attach_btf_obj_fd", ct.c_uint32),
        ("fd_array", ct.c_void_p),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log_buf", ct.c_char_p),
    ]


class _BatchOptions(ct.Structure):
    _fields_ = [("sz", ct.c_size_t), ("elem_flags", ct.c_uint64), ("flags", ct.c_uint64)]


@cache
def _libbpf() -> ct.CDLL:
    try:
        return ct.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise UnsupportedFeature(f"libbpf.so.1 is missing ({error}); install Debian's libbpf1") from None


def _fail(what: str, result: int) -> BpfError:
    return BpfError(what, -result if result < -1 else ct.get_errno())


def create_map(
    kind: int,
    name: str,
    key_bytes: int,
    value_bytes: int,
    entries: int,
    *,
    flags: int = 0,
    inner_fd: int = 0,
    btf: tuple[int, int, int] | None = None,
) -> int:
    """A new map's file descriptor. `btf`: its descriptor and the type ids of key and value."""
    options = _MapOptions(sz=ct.sizeof(_MapOptions), map_flags=flags, inner_map_fd=inner_fd)
    if btf:
        options.btf_fd, options.btf_key_type_id, options.btf_value_type_id = btf
    fd: int = _libbpf().bpf_map_create(kind, name[:15].encode(), key_bytes, value_bytes, entries, ct.byref(options))
    if fd < 0:
        raise _fail(f"cannot create map {name}", fd)
    return fd


def load_storage_btf(value_bytes: int) -> int:
    """BTF with type 1, a four-byte int, and type 2, a struct of `value_bytes`: what socket storage asks for.

    Source: Documentation/bpf/btf.rst; the kernel wants the value's size to be known for user-space dumps.
    """
    return _load_btf(b"\0int\0value\0", _BTF_INT + struct.pack("<III", 5, 4 << 24, value_bytes))


def load_callback_btf() -> int:
    """BTF with type 3, a static function: what a callback has to be. Types 1 and 2 are its result and its prototype."""
    prototype, function = struct.pack("<III", 0, 13 << 24, 1), struct.pack("<III", 5, 12 << 24, 2)
    return _load_btf(b"\0int\0callback\0", _BTF_INT + prototype + function)


_BTF_INT = struct.pack("<IIII", 1, 1 << 24, 4, (1 << 24) | 32)


def _load_btf(strings: bytes, types: bytes) -> int:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    blob = header + types + strings
    fd: int = _libbpf().bpf_btf_load(blob, ct.c_size_t(len(blob)), None)
    if fd < 0:
        raise _fail("cannot load BTF", fd)
    return fd


@dataclass(frozen=True, slots=True)
class Verified:
    """A loaded program: its descriptor, the instructions the verifier walked, its bytes of stack."""

    fd: int
    instructions: int
    stack_bytes: int


@dataclass(frozen=True, slots=True)
class Code:
    """A program's instructions of 8 bytes; `callbacks`: where its functions begin, of the type in the BTF `btf_fd`."""

    instructions: bytes
    callbacks: tuple[int, ...] = ()
    btf_fd: int = 0


def _load(kind: int, attach_type: int, name: str, code: Code, attempts: int, log: tuple[int, int, ct.c_char_p]) -> int:
    """bpf_prog_load() of libbpf; `log` is its level, size and place. Negative: refused."""
    options = _ProgramOptions(sz=ct.sizeof(_ProgramOptions), attempts=attempts, expected_attach_type=attach_type)
    options.log_level, options.log_size, options.log_buf = log
    # struct bpf_func_info: where each function begins, and its type, see load_callback_btf()
    info = (ct.c_uint32 * (2 + 2 * len(code.callbacks)))(
        *(word for start in (0, *code.callbacks) for word in (start, 3))
    )
    if code.callbacks:
        options.prog_btf_fd, options.func_info = code.btf_fd, ct.addressof(info)
        options.func_info_cnt, options.func_info_rec_size = 1 + len(code.callbacks), 8
    fd: int = _libbpf().bpf_prog_load(
        kind, name[:15].encode(), b"Dual BSD/GPL", code.instructions, ct.c_size_t(len(code.instructions) // 8), ct.byref(options)
    )  # fmt: skip
    return fd


def load_program(kind: int, attach_type: int, name: str, code: Code) -> Verified:
    """Has a program verified. Raises BpfError."""
    log = ct.create_string_buffer(1 << 16)
    # statistics only; a refusal is asked for again with reasons
    fd = _load(kind, attach_type, name, code, 5, (4, len(log), ct.cast(log, ct.c_char_p)))
    if fd < 0:
        raise _fail(name, fd)
    # "processed N insns (limit ...)": bpf_prog_info has it since 5.16 only
    walked, depths = re.search(rb"processed (\d+) insns", log.value), re.search(rb"stack depth ([0-9+]+)", log.value)
    stack = sum(int(depth) for depth in depths[1].split(b"+")) if depths else 0
    return Verified(fd, int(walked[1]) if walked else 0, stack)


def counts_memlock() -> bool:
    """Does this kernel count maps and programs against RLIMIT_MEMLOCK? Before 5.11, which brought bpf_ktime_get_coarse_ns too.

    As libbpf probes it: by a program that calls that helper, which such a kernel refuses. Raises BpfError when it cannot ask.
    """
    call, leave = struct.pack("<BBhi", 0x85, 0, 0, 160), struct.pack("<BBhi", 0x95, 0, 0, 0)
    try:
        os.close(load_program(PROG_SOCKET_FILTER, 0, "coarse_clock", Code(call + leave)).fd)
    except BpfError as error:
        if error.errno == errno.EPERM:
            # the limit may be reached already; BTF is counted nowhere: where that may be loaded either, it is the limit
            os.close(load_storage_btf(8))
            return True
        if error.errno == errno.EINVAL:
            return True
        raise
    return False


def has_loop() -> bool:
    """Does this kernel have bpf_loop (5.17)? What repeats without a bound that its verifier can walk needs it."""
    found: int = _libbpf().libbpf_probe_bpf_helper(PROG_CGROUP_SKB, 181, None)
    return found == 1


def verifier_log(kind: int, attach_type: int, name: str, code: Code, lines: int = 20) -> list[str]:
    """The last lines of the verifier's reasons to refuse a program."""
    size = 1 << 28
    log = mmap.mmap(-1, size)
    view = (ct.c_char * size).from_buffer(log)
    fd = _load(kind, attach_type, name, code, 1, (1, size, ct.cast(view, ct.c_char_p)))
    if fd >= 0:
        os.close(fd)
    text = ct.string_at(ct.addressof(view)).decode("utf-8", "replace")
    del view
    return text.strip().splitlines()[-lines:]


def create_link(program_fd: int, target_fd: int, attach_type: int) -> int:
    fd: int = _libbpf().bpf_link_create(program_fd, target_fd, attach_type, None)
    if fd < 0:
        raise _fail("cannot attach to the cgroup", fd)
    return fd


def update_link(link_fd: int, program_fd: int) -> None:
    """Swaps the link's program atomically."""
    result: int = _libbpf().bpf_link_update(link_fd, program_fd, None)
    if result < 0:
        raise _fail("cannot replace the attached program", result)


def pin(fd: int, path: Path) -> None:
    result: int = _libbpf().bpf_obj_pin(fd, os.fsencode(path))
    if result < 0:
        raise _fail(f"cannot pin {path}", result)


def open_pin(path: Path) -> int:
    fd: int = _libbpf().bpf_obj_get(os.fsencode(path))
    if fd < 0:
        raise _fail(f"cannot open {path}", fd)
    return fd


def update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    result: int = _libbpf().bpf_map_update_elem(fd, key, value, ct.c_uint64(flags))
    if result < 0:
        raise _fail("cannot update a map", result)


def lookup(fd: int, key: bytes, value_bytes: int) -> bytes | None:
    value = ct.create_string_buffer(value_bytes)
    result: int = _libbpf().bpf_map_lookup_elem(fd, key, value)
    if result < 0:
        if ct.get_errno() == errno.ENOENT:
            return None
        raise _fail("cannot look up in a map", result)
    return value.raw


def delete(fd: int, key: bytes) -> None:
    result: int = _libbpf().bpf_map_delete_elem(fd, key)
    if result < 0 and ct.get_errno() != errno.ENOENT:
        raise _fail("cannot delete from a map", result)


def lookup_all(
    fd: int, key_type: np.dtype[np.void], value_type: np.dtype[np.void], entries: int
) -> tuple[np.ndarray, np.ndarray]:
    """All keys and values of a hash map that nobody writes to, as structured arrays."""
    keys = np.zeros(entries, key_type)
    values = np.zeros(entries, value_type)
    cursor_in, cursor_out = ct.create_string_buffer(8), ct.create_string_buffer(8)
    options = _BatchOptions(sz=ct.sizeof(_BatchOptions))
    filled, first = 0, True
    while filled < entries:
        count = ct.c_uint32(entries - filled)
        result: int = _libbpf().bpf_map_lookup_batch(
            fd,
            None if first else cursor_in,
            cursor_out,
            ct.c_void_p(keys.ctypes.data + filled * key_type.itemsize),
            ct.c_void_p(values.ctypes.data + filled * value_type.itemsize),
            ct.byref(count),
            ct.byref(options),
        )
        error = ct.get_errno() if result < 0 else 0
        if error and error != errno.ENOENT:
            raise _fail("cannot read a map", result)
        filled += count.value
        if error == errno.ENOENT:
            break
        first = False
        cursor_in, cursor_out = cursor_out, cursor_in
    return keys[:filled], values[:filled]


def delete_all(fd: int, keys: np.ndarray) -> None:
    """Deletes the given keys."""
    if not len(keys):
        return
    keys = np.ascontiguousarray(keys)
    count = ct.c_uint32(len(keys))
    options = _BatchOptions(sz=ct.sizeof(_BatchOptions))
    result: int = _libbpf().bpf_map_delete_batch(fd, ct.c_void_p(keys.ctypes.data), ct.byref(count), ct.byref(options))
    if result < 0 and ct.get_errno() != errno.ENOENT:
        raise _fail("cannot empty a map", result)


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """struct bpf_prog_info, the fields we read. Run time and count are 0 unless kernel.bpf_stats_enabled."""

    id: int
    run_time_ns: int
    run_count: int


def _info(fd: int, size: int, what: str) -> bytes:
    """BPF_OBJ_GET_INFO_BY_FD: the first `size` bytes of the object's info struct. Raises BpfError."""
    info = ct.create_string_buffer(size)
    length = ct.c_uint32(size)
    result: int = _libbpf().bpf_obj_get_info_by_fd(fd, info, ct.byref(length))
    if result < 0:
        raise _fail(what, result)
    return info.raw


def program_info(fd: int) -> ProgramInfo:
    raw = _info(fd, 208, "cannot read program info")
    (identifier,) = struct.unpack_from("<I", raw, 4)
    run_time, run_count = struct.unpack_from("<QQ", raw, 192)
    return ProgramInfo(identifier, run_time, run_count)


@dataclass(frozen=True, slots=True)
class MapInfo:
    """struct bpf_map_info, the fields we read."""

    type: int
    id: int
    key_bytes: int
    value_bytes: int
    entries: int


def map_info(fd: int) -> MapInfo:
    raw = _info(fd, 88, "cannot read map info")
    return MapInfo(*struct.unpack_from("<IIIII", raw, 0))


def filesystem_magic(path: Path) -> int:
    """f_type of statfs(2)."""
    libc = ct.CDLL(None, use_errno=True)
    buffer = ct.create_string_buffer(256)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return 0
    magic: int = struct.unpack_from("<q", buffer.raw, 0)[0] & 0xFFFFFFFF
    return magic


def possible_cpus() -> int:
    """CPUs the kernel keeps a slot for in per-CPU maps."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
