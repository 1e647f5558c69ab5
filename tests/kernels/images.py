"""What a guest boots from: a kernel, an initramfs with its modules, a disk with user space, and this tree as a tar.

The disk is made once and kept: Debian's packages unpacked without running their scripts (so that another architecture's can be), and
the Python packages of the image and of the tests. A guest gets it as a snapshot: what it writes is gone with it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.image import rootfs
from tests.kernels.guests import GUESTS, MACHINES, MODULES, WHOLE, Guest, Machine
from tests.kernels.packages import CACHE, Apt, sources, unpack

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = (
    "base-files", "base-passwd", "bash", "coreutils", "curl", "dash", "debianutils", "diffutils", "findutils", "gawk", "git", "grep", "hostname", "iproute2", "iputils-ping", "kmod", "libbpf1",
    "libc-bin", "login", "mawk", "mount", "nftables", "nginx-light", "passwd", "perl-base", "procps", "psmisc", "python3", "python3-distutils", "redis-server", "redis-tools", "sed", "tar", "util-linux", "wrk",
    "nghttp2-client", "memcached", "libcap2-bin", "ca-certificates", "openssl", "bind9-dnsutils",
)  # fmt: skip
DEBIAN_WHOLE = ("python3-bpfcc", "bpfcc-tools", "python3-seccomp", "libc6-dev", "linux-libc-dev")
"""Other observers, and what the test of the image's privileges needs: only where those parts run."""
PYTHON = (
    "pytest",
    "pytest-timeout",
    "h11",
    "hypothesis",
    "hpack",
    "cryptography",
    "dnslib",
    "kubernetes",
    "jsonschema",
    "prometheus-client",
    "pymemcache",
    "redis",
)
TREE = (
    "agent",
    "bpf",
    "cli",
    "daemonset",
    "exporter",
    "identity",
    "analysis",
    "src",
    "tests",
    "benchmarks",
    "docs",
    "pyproject.toml",
    "Makefile",
)


@dataclass(frozen=True, slots=True)
class Boot:
    """Files to boot a guest from."""

    kernel: Path
    initramfs: Path
    disk: Path
    release: str
    """What uname -r says in it."""


def disk(machine: Machine, apt: Apt, *, whole: bool) -> Path:
    """The disk of an architecture, made when the list of what is in it has changed. `whole`: with the image and other observers."""
    wanted = [*DEBIAN, *(DEBIAN_WHOLE if whole else ())]
    lock = (ROOT / "daemonset" / "requirements.lock").read_bytes()
    kernels = [repr(guest) for guest in GUESTS.values()] if whole else []
    described = "\n".join([machine.name, *wanted, *PYTHON, sources(), INIT, *kernels]).encode() + lock
    name = f"{machine.name}-{'whole' if whole else 'small'}"
    made = CACHE / f"{name}-{hashlib.sha256(described).hexdigest()[:12]}.ext4"
    if made.exists():
        return made
    for older in CACHE.glob(f"{name}-*.ext4"):
        older.unlink()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        root = Path(scratch) / "root"
        lists = Path(scratch) / "sources.list"
        lists.write_text("".join(line + "\n" for line in sources().splitlines() if "bookworm" in line))
        subprocess.run(
            ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--architectures={machine.name}", f"--include={','.join(wanted)}",
             "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
             "--dpkgopt=path-exclude=/usr/share/locale/*", "bookworm", str(root), str(lists)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        _furnish(root)
        _python_packages(root, machine)
        if whole:
            _headers(root, apt)
            subprocess.run(["make", "-s", "wheel"], cwd=ROOT, check=True, capture_output=True)
            rootfs.build(root / "image")
        (root / "sbin" / "guest").write_text(INIT)
        (root / "sbin" / "guest").chmod(0o755)
        size = int(
            subprocess.run(["du", "-sm", str(root)], capture_output=True, text=True, check=True).stdout.split()[0]
        )
        fresh = made.with_suffix(".new")
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^orphan_file,^metadata_csum_seed", "-F", "-d", str(root), str(fresh), f"{size * 13 // 10 + 2600}M"],
            check=True, capture_output=True,
        )  # fmt: skip
        fresh.rename(made)
    return made


def _furnish(root: Path) -> None:
    """What the packages' scripts would have done and the tests rely on."""
    shutil.copy(root / "usr/share/base-passwd/passwd.master", root / "etc/passwd")
    shutil.copy(root / "usr/share/base-passwd/group.master", root / "etc/group")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n::1 localhost\n")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    for name, target in {"sh": "dash", "awk": "mawk"}.items():
        link = root / "usr/bin" / name
        if not link.exists():
            link.symlink_to(target)
    for name in ("var/lib/nginx/body", "var/log/nginx", "run", "tmp", "proc", "sys", "dev", "sidelight"):
        (root / name).mkdir(parents=True, exist_ok=True)


def _headers(root: Path, apt: Apt) -> None:
    """Of the kernels whose guests compare observers: those compile against them."""
    for guest in GUESTS.values():
        if "observers" in guest.parts:
            release = apt.newest(guest.package).removeprefix("linux-image-")
            common = f"linux-headers-{release.removesuffix('-cloud-amd64')}-common"
            for package, machine in (
                (f"linux-headers-{release}", "amd64"),
                (common, "all"),
                ("linux-kbuild-6.1", "amd64"),
            ):
                unpack(apt.fetch(package, machine), root)


def _python_packages(root: Path, machine: Machine) -> None:
    to = root / "usr/local/lib/python3.11/dist-packages"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as locked:
        # the lock's versions without its hashes: pip would want them for the tests' packages too
        lines = (ROOT / "daemonset" / "requirements.lock").read_text().splitlines()
        locked.write(
            "".join(line.split(" ")[0] + "\n" for line in lines if line and not line.startswith((" ", "#", "-")))
        )
        locked.flush()
        platforms = [word for name in machine.wheels for word in ("--platform", name)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--target", str(to), *platforms,
             "--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:", "-r", locked.name, *PYTHON],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def boot(guest: Guest, apt: Apt, parts: tuple[str, ...]) -> Boot:
    """Everything to boot it from. The kernel and its modules are kept below CACHE."""
    package = apt.newest(guest.package)
    release = package.removeprefix("linux-image-")
    at = CACHE / package
    initramfs = at / f"initramfs-{hashlib.sha256((INITRAMFS + ' '.join(MODULES)).encode()).hexdigest()[:12]}"
    if not initramfs.exists():
        shutil.rmtree(at, ignore_errors=True)
        # arm64's and amd64's cloud kernels are signed packages: the image and its modules are in them whole
        unpack(apt.fetch(package, guest.machine), at / "package")
        unpack(apt.fetch("busybox-static", guest.machine), at / "busybox")
        _initramfs(at, release, initramfs)
    return Boot(
        at / "package" / "boot" / f"vmlinuz-{release}",
        initramfs,
        disk(MACHINES[guest.machine], apt, whole=bool(WHOLE & set(parts))),
        release,
    )


def _initramfs(at: Path, release: str, to: Path) -> None:
    tree = at / "tree"
    for name in ("bin", "proc", "sys", "dev", "root", "modules"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(at / "busybox" / "bin" / "busybox", tree / "bin" / "busybox")
    package = at / "package"
    if not (package / "lib" / "modules").exists() and (package / "usr" / "lib" / "modules").exists():
        (package / "lib").symlink_to("usr/lib")
    subprocess.run(["depmod", "-b", str(package), release], check=True)
    ordered = _modules(package / "lib" / "modules" / release, MODULES)
    for number, path in enumerate(ordered):
        _plain_module(path, tree / "modules" / f"{number:03}-{path.name.split('.ko')[0]}.ko")
    (tree / "init").write_text(INITRAMFS)
    (tree / "init").chmod(0o755)
    files = subprocess.run(["find", ".", "-print0"], cwd=tree, capture_output=True, check=True).stdout
    archive = subprocess.run(["cpio", "--quiet", "-0", "-o", "-H", "newc"], cwd=tree, input=files, capture_output=True, check=True).stdout  # fmt: skip
    to.write_bytes(archive)


def _plain_module(path: Path, to: Path) -> None:
    tool = {".xz": "xz", ".zst": "zstd"}.get(path.suffix)
    if tool is None:
        shutil.copy(path, to)
    else:
        to.write_bytes(subprocess.run([tool, "-dc", str(path)], capture_output=True, check=True).stdout)


def _modules(directory: Path, wanted: tuple[str, ...]) -> list[Path]:
    """Paths of the modules and of what they need, in the order to load them in (modules.dep of depmod(8))."""
    needs: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []

    def visit(path: str) -> None:
        if path in order:
            return
        for needed in needs[path]:
            visit(needed)
        order.append(path)

    for name in wanted:
        if name in by_name:
            visit(by_name[name])
    return [directory / path for path in order]


def tree_archive(to: Path, more: tuple[tuple[Path, str], ...] = ()) -> None:
    """This tree as the guest gets it, and `more` (path, name in the archive); padded to whole sectors for a drive."""
    with tarfile.open(to, "w") as archive:
        for name in TREE:
            if (ROOT / name).exists():
                archive.add(ROOT / name, name, filter=_no_caches)
        for path, name in more:
            archive.add(path, name)
    with to.open("ab") as padded:
        padded.write(bytes(-to.stat().st_size % 4096))


def _no_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name or member.name.endswith(".egg-info") else member


INITRAMFS = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do busybox insmod $module || busybox echo "guest: no $module"; done
tries=0
while [ ! -b /dev/vdb ] && [ $tries -lt 100 ]; do busybox sleep 0.1; tries=$((tries+1)); done
busybox mount -t ext4 /dev/vda /root || busybox echo "guest: no disk"
busybox mkdir -p /root/sidelight
busybox tar xf /dev/vdb -C /root/sidelight
for place in proc sys dev; do busybox mount --move /$place /root/$place; done
exec busybox switch_root /root /sbin/guest
"""
INIT = """#!/bin/bash
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t tmpfs tmpfs /run; mount -t tmpfs -o size=2g tmpfs /tmp; mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf; mount -t tracefs tracefs /sys/kernel/tracing; mount -t debugfs debugfs /sys/kernel/debug
hostname guest; ip link set lo up; ulimit -n 65536
echo 0 > /proc/sys/kernel/printk
mkdir -p /usr/lib/sidelight; cp /sidelight/programs.msgpack /usr/lib/sidelight/
if [ -d /image ]; then
  export SIDELIGHT_IMAGE=/image; cp /sidelight/programs.msgpack /image/usr/lib/sidelight/
  for package in agent bpf cli exporter identity analysis; do [ -d /sidelight/$package ] && cp -r /sidelight/$package /image/opt/sidelight/lib/python3.11/site-packages/sidelight/; done
fi
cd /sidelight; export PYTHONPATH=/sidelight/src:/sidelight
parts=$(sed -n 's/.*sidelight.parts=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
grep -q sidelight.write /proc/cmdline && export SIDELIGHT_WRITE=1
python3 -m tests.kernels.inside ${parts//,/ }
sync; echo o > /proc/sysrq-trigger; sleep 60
"""
