"""The image's root file system without a container engine: the Dockerfile's packages by mmdebstrap, its install.sh in a chroot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.packages import sources_lists

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Image:
    """`root` is the file system; sizes in bytes."""

    root: Path
    debian_bytes: int
    python_bytes: int

    @property
    def bytes(self) -> int:
        return self.debian_bytes + self.python_bytes


def tree_bytes(path: Path) -> int:
    return int(subprocess.run(["du", "-sb", str(path)], capture_output=True, text=True, check=True).stdout.split()[0])


def build(root: Path) -> Image:
    """Builds it at `root`. Raises CalledProcessError."""
    packages = (ROOT / "daemonset" / "debian-packages.txt").read_text().split()
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}",
         "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
         "bookworm", str(root), *map(str, sources_lists())],
        check=True, capture_output=True,
    )  # fmt: skip
    for left in ("var/cache", "var/log", "var/lib/apt/lists"):
        shutil.rmtree(root / left, ignore_errors=True)
    debian = tree_bytes(root)
    sources_dir = root / "tmp" / "sources"
    sources_dir.mkdir()
    for path in [
        ROOT / "daemonset" / "requirements.lock",
        ROOT / "daemonset" / "install.sh",
        *(ROOT / "dist").glob("*.whl"),
    ]:
        shutil.copy(path, sources_dir)
    # the packages come in by way of this machine's pip, which knows where its index is
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:", "-d", str(sources_dir / "wheels"),
         "-r", str(ROOT / "daemonset" / "requirements.lock")],
        check=True, capture_output=True,
    )  # fmt: skip
    # the Dockerfile's first stage is this machine, with the venv's place in the image mounted where it will be
    place = root / "opt" / "sidelight"
    place.mkdir(parents=True)
    script = 'mount -t tmpfs none /opt && mkdir /opt/sidelight && mount --bind "$0" /opt/sidelight && PATH=/usr/bin:/bin exec sh "$1/install.sh" "$1" /opt/sidelight'  # fmt: skip
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, str(place), str(sources_dir)], capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout[-1500:] + done.stderr[-1500:])
    shutil.rmtree(root / "tmp")
    (root / "tmp").mkdir()
    (root / "usr/lib/sidelight").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dist" / "programs.msgpack", root / "usr/lib/sidelight/programs.msgpack")
    return Image(root, debian, tree_bytes(root / "opt/sidelight"))
