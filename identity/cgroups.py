"""Cgroup id -> path, followed by inotify: the tree is walked once, then told about.

A cgroup's id is its directory's inode number (kernfs, 64 bit). A cgroup that was removed is remembered, because the last
events of its sockets arrive after it.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from inotify_simple import INotify, flags

REMEMBERED = 4096
"""Removed cgroups kept, oldest forgotten first."""
RESCAN_INTERVAL_S = 1.0
"""At most one walk of the tree in this time for ids that inotify has not told about."""
_WATCHED = flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.ONLYDIR


class CgroupTree:
    """Ids and paths of all cgroups below `root`. Not thread-safe: one reader."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[int, str] = {}
        self._gone: OrderedDict[int, str] = OrderedDict()
        self._ids: dict[str, int] = {}
        self._watches: dict[int, str] = {}
        self._inotify = INotify(nonblocking=True)
        self._scanned = 0.0
        self._scan(root)

    def close(self) -> None:
        self._inotify.close()

    def path(self, cgroup_id: int) -> str | None:
        """Path below the cgroup2 root, or None when this id was never seen."""
        found = self._paths.get(cgroup_id) or self._gone.get(cgroup_id)
        if found is None:
            self.follow()
            found = self._paths.get(cgroup_id) or self._gone.get(cgroup_id)
        if found is None and time.monotonic() - self._scanned > RESCAN_INTERVAL_S:
            self._scan(self.root)
            found = self._paths.get(cgroup_id)
        return found

    def processes(self, path: str) -> list[int]:
        """Pids in a cgroup, of those our pid namespace shows."""
        try:
            text = (self.root / path.lstrip("/") / "cgroup.procs").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split() if pid != "0"]

    def follow(self) -> bool:
        """Takes in what inotify reports. True when something changed."""
        changed = False
        for event in self._inotify.read(timeout=0):
            changed = True
            if event.mask & flags.Q_OVERFLOW:
                self._scan(self.root)
                continue
            parent = self._watches.get(event.wd)
            if event.mask & flags.IGNORED:
                self._watches.pop(event.wd, None)
            if parent is None or not event.mask & flags.ISDIR:
                continue
            path = f"{parent}/{event.name}"
            if event.mask & (flags.CREATE | flags.MOVED_TO):
                self._scan(self.root / path.lstrip("/"))
            elif event.mask & flags.DELETE:
                self._forget(path)
        return changed

    def _forget(self, path: str) -> None:
        identifier = self._ids.pop(path, None)
        if identifier is None:
            return
        self._gone[identifier] = self._paths.pop(identifier, path)
        while len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    def _scan(self, top: Path) -> None:
        """Watches first and lists then, so that nothing made in between is missed."""
        if top == self.root:
            self._scanned = time.monotonic()
        for directory in _directories(top, lambda path: self._watch(path)):
            path = "/" + str(directory.relative_to(self.root)) if directory != self.root else ""
            try:
                identifier = directory.stat().st_ino
            except OSError:
                continue
            self._paths[identifier] = path or "/"
            self._ids[path] = identifier

    def _watch(self, directory: Path) -> None:
        path = "/" + str(directory.relative_to(self.root)) if directory != self.root else ""
        try:
            self._watches[self._inotify.add_watch(str(directory), _WATCHED)] = path
        except OSError:
            return  # removed meanwhile, or out of watches: ids are then found by walking


def _directories(top: Path, before: object) -> Iterator[Path]:
    assert callable(before)
    pending = [top]
    while pending:
        directory = pending.pop()
        before(directory)
        yield directory
        try:
            with os.scandir(directory) as entries:
                pending += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
