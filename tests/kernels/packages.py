"""Debian packages of other releases and architectures, by an apt configuration of its own: the machine's is not touched."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

CACHE = Path("/var/cache/sidelight/guests")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = (("debian", "bookworm"), ("security", "bookworm-security"), ("debian", "bullseye"), ("security", "bullseye-security"))  # fmt: skip
HOUR = 3600.0


def mirrors(sources: list[Path]) -> dict[str, str]:
    """URIs of the archive and of its security suites, from this machine's own lists (one-line or deb822 style)."""
    found: dict[str, str] = {}
    for path in sources:
        for uri in re.findall(r"^(?:URIs:|deb(?:\s+\[[^\]]*\])?)\s+(\S+)", path.read_text(), re.M):
            found.setdefault("security" if "security" in uri else "debian", uri.rstrip("/"))
    return found


def sources_lists() -> list[Path]:
    """Where this machine's apt gets Debian's packages from."""
    directory = Path("/etc/apt/sources.list.d")
    found = [Path("/etc/apt/sources.list"), *directory.glob("debian.sources"), *directory.glob("debian.list")]
    return [path for path in found if path.exists() and path.stat().st_size]


def sources() -> str:
    """A sources.list of every suite that guests come from."""
    known = mirrors(sources_lists())
    return "".join(f"deb [signed-by={KEYRING}] {known[kind]} {suite} main\n" for kind, suite in SUITES)


class Apt:
    """apt-get and apt-cache for a private state below CACHE, for both architectures."""

    def __init__(self, at: Path = CACHE / "apt") -> None:
        for directory in ("lists/partial", "archives/partial", "debs"):
            (at / directory).mkdir(parents=True, exist_ok=True)
        (at / "status").touch()
        (at / "sources.list").write_text(sources())
        (at / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{at}/sources.list"; Dir::Etc::sourceparts "-"; Dir::Etc::preferencesparts "-";\n'
            f'Dir::State::lists "{at}/lists"; Dir::State::status "{at}/status"; Dir::Cache "{at}";\n'
            'APT::Architecture "amd64"; APT::Architectures { "amd64"; "arm64"; }; Acquire::Languages "none";\n'
        )
        self.at = at
        self._env = {**os.environ, "APT_CONFIG": str(at / "apt.conf")}
        self._update()

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=self._env, cwd=cwd, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _update(self) -> None:
        """Once an hour is enough: packages of a released suite seldom change."""
        stamp = self.at / "updated"
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > HOUR:
            self._run("apt-get", "update", "-q")
            stamp.touch()

    def newest(self, pattern: str) -> str:
        """The package with the highest version among those whose whole name matches. Raises RuntimeError."""
        names = [name for name in self._run("apt-cache", "pkgnames").split() if re.fullmatch(pattern, name)]
        if not names:
            raise RuntimeError(f"no package is called {pattern}")
        return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def fetch(self, package: str, machine: str) -> Path:
        """The .deb of a package, from the cache when it is there."""
        kept = list((self.at / "debs").glob(f"{package}_*_{machine}.deb"))
        if not kept:
            self._run(
                "apt-get",
                "download",
                "-q",
                package if machine == "all" else f"{package}:{machine}",
                cwd=self.at / "debs",
            )
            kept = list((self.at / "debs").glob(f"{package}_*_{machine}.deb"))
        return max(kept, key=lambda path: path.stat().st_mtime)


def unpack(deb: Path, to: Path) -> None:
    """Into a tree that may have /lib as a link to usr/lib, which dpkg-deb would replace."""
    to.mkdir(parents=True, exist_ok=True)
    packed = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    subprocess.run(
        ["tar", "--extract", "--keep-directory-symlink", "--directory", str(to)], stdin=packed.stdout, check=True
    )
    if packed.wait():
        raise RuntimeError(f"cannot unpack {deb}")
