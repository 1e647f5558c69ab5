"""glibc's heap, kept small: mallopt(3), malloc_trim(3). Without glibc, nothing."""

from __future__ import annotations

import contextlib
import ctypes
import time

M_ARENA_MAX = -8
EVERY_S = 60.0


class Heap:
    """glibc gives a heap to each thread; ours wait for one interpreter lock, so two do, and 10 MB stay free."""

    def __init__(self) -> None:
        self._libc: ctypes.CDLL | None = None
        self._listings = 0
        self._last = time.monotonic()
        with contextlib.suppress(OSError, AttributeError):
            self._libc = ctypes.CDLL("libc.so.6")
            self._libc.mallopt(M_ARENA_MAX, 2)

    def tidy(self, listings: int) -> None:
        """Gives free pages back, every minute and after each of the cluster's `listings`: those of 100,000 pods leave 16 MB."""
        now = time.monotonic()
        if self._libc is None or (listings == self._listings and now - self._last < EVERY_S):
            return
        self._listings, self._last = listings, now
        with contextlib.suppress(AttributeError):
            self._libc.malloc_trim(0)
