"""Loads, attaches and pins the programs, in a short-lived process: `python -m sidelight.agent.loader`.

Pins of an instance, below BPFFS/sidelight/INSTANCE:

    maps-LAYOUT/NAME     maps; the directory's name says which layout they have
    links/HOOK           bpf_links: unlinking one detaches its program
    programs/HOOK        the same programs, for their figures
    handover             totals left for the next agent (agent/handover.py)

Run again with the same programs it changes nothing that counts; with changed programs of the same layout it swaps
them in atomically and goes on with the same maps; a changed layout starts with fresh maps. What fails half-way is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import msgspec

from sidelight.agent import bpf, hpack, layout, vocabulary
from sidelight.agent.adopt import socket_roles
from sidelight.agent.compiler import (
    CACHE,
    PREBUILT,
    Artifact,
    MapSpec,
    ProgramSpec,
    compile_programs,
    prebuilt,
    relocate,
    save,
)
from sidelight.agent.errors import BpfError, ConfigError, SidelightError, UnsupportedFeature, VerifierError
from sidelight.agent.protocols import PROTOCOLS

DEFAULT_BPFFS = Path("/sys/fs/bpf")


@dataclass(frozen=True, slots=True)
class Hook:
    """A program type and where it is attached; attach_type -1: reached by tail call only."""

    program_type: int
    attach_type: int
    expected: int


HOOKS = {
    "sock_ops": Hook(bpf.PROG_SOCK_OPS, bpf.ATTACH_SOCK_OPS, bpf.ATTACH_SOCK_OPS),
    "ingress": Hook(bpf.PROG_CGROUP_SKB, bpf.ATTACH_INGRESS, bpf.ATTACH_INGRESS),
    "egress": Hook(bpf.PROG_CGROUP_SKB, bpf.ATTACH_EGRESS, bpf.ATTACH_EGRESS),
    "sock_release": Hook(bpf.PROG_CGROUP_SOCK, bpf.ATTACH_SOCK_RELEASE, bpf.ATTACH_SOCK_RELEASE),
}
_STEPS = layout.parse_constants(layout.source("l7/protocol.h"))
TAIL_CALLS = {
    **{protocol.program: protocol.number for protocol in PROTOCOLS.values() if protocol.program},
    "close": _STEPS["NEXT_CLOSE"],
    "close_http2": _STEPS["NEXT_CLOSE_HTTP2"],
    "close_commands": _STEPS["NEXT_CLOSE_COMMANDS"],
    "wait": _STEPS["NEXT_WAIT"],
}
"""Index in the program arrays: a protocol's number, else enum next of bpf/l7/protocol.h."""
AGAIN = _STEPS["NEXT_AGAIN"]


def hook_of(program: str) -> Hook:
    """Where a program runs: what is reached by tail call runs where its caller does."""
    if program in HOOKS:
        return HOOKS[program]
    caller = HOOKS[next(name for name in HOOKS if program.startswith(f"{name}_"))]
    return Hook(caller.program_type, -1, caller.expected)


class Sizes(msgspec.Struct, frozen=True):
    """Sizes a user may choose; maps of another size count as another layout."""

    edges: int = 16384
    latencies: int = 16384
    ring_bytes: int = 1 << 20
    operations: int = 1024
    """Operations that count apart: the cardinality budget."""

    def tag(self) -> str:
        return f"{self.edges}-{self.latencies}-{self.ring_bytes}-{self.operations}"


class LoadRequest(msgspec.Struct, frozen=True):
    """What the loader process is told, as JSON on standard input."""

    cgroup: str
    instance: str
    bpffs: str = str(DEFAULT_BPFFS)
    sizes: Sizes = Sizes()


class LoadReport(msgspec.Struct, frozen=True):
    """What it says, as JSON on standard output."""

    status: str
    """fresh: nothing was there; kept: maps went on; restarted: the layout changed, counting starts anew."""
    compiled: bool
    verified: dict[str, int] = {}
    """Instructions the verifier processed, per program."""
    stack: dict[str, int] = {}
    """Bytes of stack, per program; the kernel allows 512."""
    roles: dict[int, int] = {}
    """Roles of the sockets that were there before the programs, by cookie (agent/adopt.py). Asked here: pyroute2 takes 10 MB."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Pins:
    """Paths of an instance's pins."""

    root: Path

    @classmethod
    def of(cls, instance: str, bpffs: Path = DEFAULT_BPFFS) -> Pins:
        if not instance or not all(c.isalnum() or c in "-_" for c in instance) or len(instance) > 64:
            raise ConfigError(f"--instance {instance!r}: letters, digits, - and _ only, 64 at most")
        return cls(bpffs / "sidelight" / instance)

    @property
    def links(self) -> Path:
        return self.root / "links"

    @property
    def programs(self) -> Path:
        return self.root / "programs"

    @property
    def handover(self) -> Path:
        return self.root / "handover"

    def maps(self, sizes: Sizes) -> Path:
        # bpffs refuses names with a dot
        return self.root / f"maps-{layout.layout_hash()}-{sizes.tag()}"


def check_bpffs(bpffs: Path) -> None:
    """Raises UnsupportedFeature with what to do, unless `bpffs` is one."""
    if bpf.filesystem_magic(bpffs) != bpf.BPF_FS_MAGIC:
        raise UnsupportedFeature(f"no bpffs at {bpffs}: mount it with `mount -t bpf bpf {bpffs}`")


CAPABILITIES = {
    39: ("CAP_BPF", "it makes maps and loads programs"),
    12: ("CAP_NET_ADMIN", "it attaches programs to the network hooks of a cgroup"),
    38: ("CAP_PERFMON", "without it the verifier refuses arithmetic on packet pointers"),
}
"""What the loader needs, by number (capabilities(7)), and for what. CAP_SYS_ADMIN stands for the first and the last."""
CAP_SYS_ADMIN = 21
MEMLOCK_BYTES = 128 << 20
"""What maps and programs take at most at the default sizes, where it is counted."""


def check_capabilities() -> None:
    """Raises UnsupportedFeature naming what is missing."""
    effective = next(
        (
            int(line.split()[1], 16)
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("CapEff:")
        ),
        0,
    )
    if os.geteuid() != 0 and not any(effective >> number & 1 for number in CAPABILITIES):
        names = ", ".join(name for name, _ in CAPABILITIES.values())
        raise UnsupportedFeature(f"not root: run with sudo, or give it {names}")
    for number, (name, purpose) in CAPABILITIES.items():
        stands_in = number != 12 and effective >> CAP_SYS_ADMIN & 1
        if not (effective >> number & 1 or stands_in):
            raise UnsupportedFeature(
                f"not allowed: {name} is missing, {purpose}; run as root, or see docs/privileges.md"
            )


def cgroup2_root(of: Path | None = None) -> Path:
    """Where cgroup2 is mounted, or which of several mounts holds `of` (in a container: the host's tree beside its own).

    From /proc/self/mounts. Raises UnsupportedFeature when there is none.
    """
    mounts = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        parts = line.split()
        if len(parts) > 2 and parts[2] == "cgroup2":
            mounts.append(Path(parts[1].replace("\\040", " ")))
    if not mounts:
        raise UnsupportedFeature("cgroup2 is not mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`")
    holding = [mount for mount in mounts if of is not None and of.is_relative_to(mount)]
    return max(holding, key=lambda mount: len(mount.parts), default=mounts[0])


def check_cgroup(path: Path) -> Path:
    """The path, if it is a cgroup2 directory. Raises ConfigError."""
    if not path.is_dir():
        raise ConfigError(f"--cgroup {path}: no such directory")
    if bpf.filesystem_magic(path) != bpf.CGROUP2_MAGIC:
        raise ConfigError(f"--cgroup {path}: not a cgroup2 directory (cgroup2 is mounted at {cgroup2_root()})")
    return path


def raise_memlock() -> None:
    """Kernels before 5.11 count maps against RLIMIT_MEMLOCK: asks for no limit. Raises UnsupportedFeature."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        if soft == resource.RLIM_INFINITY or not bpf.counts_memlock():
            return
    except BpfError:
        return  # bpf(2) is not to be had at all: making maps will say so
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        if soft < MEMLOCK_BYTES:
            raise UnsupportedFeature(
                f"this kernel counts maps as locked memory, of which {soft >> 10} KB are allowed: "
                "give CAP_SYS_RESOURCE, or a higher limit (ulimit -l, LimitMEMLOCK=); docs/privileges.md"
            ) from None


def _map_entries(spec: MapSpec, sizes: Sizes) -> int:
    if spec.name.startswith("edges_"):
        return sizes.edges
    if spec.name.startswith("latencies_"):
        return sizes.latencies
    if spec.name in ("operations", "operation_texts"):
        return sizes.operations
    if spec.type == bpf.MAP_RINGBUF:
        return sizes.ring_bytes
    return spec.entries


def _create_map(spec: MapSpec, sizes: Sizes, descriptors: dict[str, int]) -> int:
    entries = _map_entries(spec, sizes)
    if spec.type == bpf.MAP_SK_STORAGE:
        btf_fd = bpf.load_storage_btf(spec.value_bytes)
        return bpf.create_map(
            spec.type, spec.name, 4, spec.value_bytes, 0, flags=bpf.BPF_F_NO_PREALLOC, btf=(btf_fd, 1, 2)
        )
    if spec.type == bpf.MAP_ARRAY_OF_MAPS:
        return bpf.create_map(spec.type, spec.name, 4, 4, 1, inner_fd=descriptors[spec.inner])
    if spec.type == bpf.MAP_RINGBUF:
        return bpf.create_map(spec.type, spec.name, 0, 0, entries)
    return bpf.create_map(spec.type, spec.name, spec.key_bytes, spec.value_bytes, entries, flags=spec.flags)


def overflow_key(key_bytes: int) -> bytes:
    """Key of the entry that takes what a full map cannot: struct edge_key with ROLE_OVERFLOW, else zero."""
    key = bytearray(key_bytes)
    offset = layout.EDGE_KEY.fields["role"][1]  # type: ignore[index]
    key[offset] = layout.ROLE_OVERFLOW
    return bytes(key)


def _fill_fresh_maps(artifact: Artifact, fds: dict[str, int]) -> None:
    bounds = [*layout.BUCKET_BOUNDS_NS] + [2**63 - 1] * (128 - len(layout.BUCKET_BOUNDS_NS))
    bpf.update(fds["bounds"], struct.pack("<I", 0), struct.pack("<128Q", *bounds))
    bpf.update(fds["hpack_tables"], struct.pack("<I", 0), hpack.tables())
    for key, value in vocabulary.records():
        bpf.update(fds["words"], key, value)
    for outer in ("edges", "latencies"):
        for inner in ("a", "b"):
            info = bpf.map_info(fds[f"{outer}_{inner}"])
            bpf.update(fds[f"{outer}_{inner}"], overflow_key(info.key_bytes), bytes(info.value_bytes))
        bpf.update(fds[outer], struct.pack("<I", 0), struct.pack("<I", fds[f"{outer}_a"]))


def _open_or_create_maps(artifact: Artifact, directory: Path, sizes: Sizes) -> tuple[dict[str, int], bool]:
    """(descriptors by name, whether they were there already)."""
    control = MapSpec("control", bpf.MAP_ARRAY, 4, 8, 1, 0)
    specs = sorted([*artifact.maps, control], key=lambda spec: bool(spec.inner))
    if all((directory / spec.name).exists() for spec in specs):
        return {spec.name: bpf.open_pin(directory / spec.name) for spec in specs}, True
    fds: dict[str, int] = {}
    for spec in specs:
        fds[spec.name] = _create_map(spec, sizes, fds)
    _fill_fresh_maps(artifact, fds)
    return fds, False


def _load_programs(artifact: Artifact, fds: dict[str, int]) -> dict[str, bpf.Verified]:
    """All programs, by name. Raises VerifierError."""

    btf_fd = bpf.load_callback_btf()

    def load_one(program: ProgramSpec) -> bpf.Verified:
        hook = hook_of(program.name)
        code = bpf.Code(relocate(program, fds), tuple(program.callbacks), btf_fd)
        try:
            return bpf.load_program(hook.program_type, hook.expected, program.name, code)
        except BpfError as error:
            raise _refusal(program, hook, code, error) from None

    def load_walked(program: ProgramSpec) -> bpf.Verified | None:
        """One whose loop the verifier has to walk: where it gives up, that protocol is not followed; its streams count as lost."""
        try:
            return load_one(program)
        except VerifierError:
            return None

    # the verifier takes most of the start, and takes it on as many cores as it gets: the largest programs first
    loops = bpf.has_loop()
    wanted: list[tuple[ProgramSpec, Callable[[ProgramSpec], bpf.Verified | None]]]
    wanted = [(program, load_one) for program in artifact.programs if loops or not program.callbacks]
    if not loops:
        wanted += [(program.walked, load_walked) for program in artifact.programs if program.walked]
    largest_first = sorted(wanted, key=lambda pair: -len(pair[0].instructions))
    with ThreadPoolExecutor(max_workers=4) as pool:
        loaded = pool.map(lambda pair: (pair[0].name, pair[1](pair[0])), largest_first)
        return {name: verified for name, verified in loaded if verified}


def _refusal(program: ProgramSpec, hook: Hook, code: bpf.Code, error: BpfError) -> SidelightError:
    import errno

    if error.errno == errno.EPERM:
        return UnsupportedFeature(f"not allowed to load BPF programs ({program.name}): run as root; docs/privileges.md")
    log = bpf.verifier_log(hook.program_type, hook.expected, program.name, code)
    return VerifierError(program.name, os.strerror(error.errno), log)


@dataclass(slots=True)
class _Undo:
    """Pins made so far, to be taken back when a later step fails."""

    paths: list[Path] = field(default_factory=list)

    def run(self) -> None:
        for path in reversed(self.paths):
            path.unlink(missing_ok=True)


def _attach(hook: str, program_fd: int, cgroup_fd: int, links: Path, undo: _Undo) -> None:
    path = links / hook
    if path.exists():
        bpf.update_link(bpf.open_pin(path), program_fd)
        return
    bpf.pin(bpf.create_link(program_fd, cgroup_fd, HOOKS[hook].attach_type), path)
    undo.paths.append(path)


def _pin_program(program_fd: int, path: Path) -> None:
    """For its figures alone; the link keeps it attached."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    bpf.pin(program_fd, path)


def load(request: LoadRequest) -> LoadReport:
    """Does it all, in this process. Raises SidelightError; then nothing of this run is left behind."""
    bpffs = Path(request.bpffs)
    check_capabilities()
    check_bpffs(bpffs)
    cgroup = check_cgroup(Path(request.cgroup))
    pins = Pins.of(request.instance, bpffs)
    artifact = prebuilt(PREBUILT) or prebuilt(CACHE)
    compiled = artifact is None
    if artifact is None:
        with as_file(files("sidelight.bpf").joinpath("stub")) as stub:
            artifact = compile_programs(stub)
        with contextlib.suppress(OSError):  # a read-only root: compile again next time
            save(artifact, CACHE)
    pins.links.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory = pins.maps(request.sizes)
    older = [path for path in pins.root.glob("maps-*") if path != directory]
    _check_same_cgroup(pins, cgroup)
    raise_memlock()
    fds, kept = _open_or_create_maps(artifact, directory, request.sizes)
    verified = _load_programs(artifact, fds)
    programs = {name: program.fd for name, program in verified.items()}
    undo = _Undo()
    try:
        if not kept:
            if directory.exists():
                shutil.rmtree(directory)
            directory.mkdir(mode=0o700)
            for name, fd in fds.items():
                bpf.pin(fd, directory / name)
                undo.paths.append(directory / name)
        for hook_name in ("sock_ops", "ingress", "egress"):
            tails = {index: f"{hook_name}_{suffix}" for suffix, index in TAIL_CALLS.items()}
            for index, name in (*tails.items(), (AGAIN, hook_name)):
                if name in programs:
                    bpf.update(fds[f"{hook_name}_next"], struct.pack("<I", index), struct.pack("<I", programs[name]))
        cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        for name, hook in HOOKS.items():
            if hook.attach_type >= 0:
                _attach(name, programs[name], cgroup_fd, pins.links, undo)
                _pin_program(programs[name], pins.programs / name)
    except SidelightError:
        undo.run()
        raise
    for path in older:
        shutil.rmtree(path, ignore_errors=True)
    status = "kept" if kept else "restarted" if older else "fresh"
    return LoadReport(
        status,
        compiled,
        {name: program.instructions for name, program in verified.items()},
        {name: program.stack_bytes for name, program in verified.items()},
    )


def _check_same_cgroup(pins: Pins, cgroup: Path) -> None:
    """Links of an instance stay on the cgroup they were made for: another one needs another instance."""
    note = next(iter(pins.root.glob("cgroup-*")), None)
    name = f"cgroup-{cgroup.stat().st_ino}"
    if note is not None and note.name != name and any(pins.links.iterdir()):
        raise ConfigError(
            f"instance {pins.root.name} already observes another cgroup; use another --instance or `sidelight unload`"
        )
    if note is not None and note.name != name:
        note.rmdir()
    (pins.root / name).mkdir(exist_ok=True)


def unload(instance: str, bpffs: Path = DEFAULT_BPFFS) -> bool:
    """Detaches and forgets everything of an instance. False when there was nothing."""
    root = Pins.of(instance, bpffs).root
    if not root.exists():
        return False
    shutil.rmtree(root / "links", ignore_errors=True)  # detached first: no program runs on maps being dropped
    shutil.rmtree(root)
    if not any(root.parent.iterdir()):
        root.parent.rmdir()
    return True


def run_loader(request: LoadRequest, timeout_s: float = 60.0) -> LoadReport:
    """load() in a process of its own: LLVM's memory goes with it. Raises SidelightError with what it said."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sidelight.agent.loader"],
            input=msgspec.json.encode(request),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SidelightError(f"the loader took longer than {timeout_s:g} s") from None
    try:
        report = msgspec.json.decode(done.stdout.splitlines()[-1] if done.stdout else b"", type=LoadReport)
    except msgspec.MsgspecError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise SidelightError("the loader failed: " + (" / ".join(said[-3:]) or f"status {done.returncode}")) from None
    if report.error:
        raise SidelightError(report.error)
    return report


@contextlib.contextmanager
def _alone(bpffs: Path) -> Iterator[None]:
    """One loader a machine at a time: the lock is on the BPF file system, which all of them share, in containers too."""
    try:
        directory = os.open(bpffs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedFeature(
            f"no BPF file system at {bpffs} ({error.strerror}): mount -t bpf bpf {bpffs}"
        ) from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def main() -> int:
    """Entry point of the loader process. Serializes with other loaders of the machine."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=LoadRequest)
    try:
        with _alone(Path(request.bpffs)):
            report = load(request)
        report = msgspec.structs.replace(report, roles=socket_roles())
    except SidelightError as error:
        report = LoadReport("failed", False, error=str(error))
    except PermissionError as error:
        report = LoadReport("failed", False, error=f"not allowed: {error}; run as root")
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    return 0 if not report.error else 1


if __name__ == "__main__":
    sys.exit(main())
