"""Which backend a dialled service address led to, from the kernel's connection tracking (nf_conntrack): its NEW events, no polling.

Needed only where the far end is on another node and the service has backends of several workloads: one on this node is told by its
own socket, one workload by the endpoint slices. The events come from one network namespace, the one where the node translates
addresses; they name connections, so they name flows, not the counters of an edge. Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import logging
import select
import socket
import struct
import threading
import time
from collections import OrderedDict
from typing import Any

from sidelight.identity.names import Address, address_of

log = logging.getLogger("sidelight.conntrack")

NETLINK_NETFILTER = 12
NFNLGRP_CONNTRACK_NEW = 1
MAX_TRANSLATIONS = 65536
BELIEVED_S = 2.0
"""A port is used again at once when the server closed first, and not every such translation is told (the old entry is still
in TIME_WAIT): a connection's first seconds have its backend's name, later ones the service's. Sixty seconds gave 15 wrong names
in 244,000, two 1."""
RECEIVE_BYTES = 1 << 20
_HEADER = struct.Struct("=IHHII")

Tuple = tuple[Address, int, Address, int]
"""Source address and port, destination address and port."""


def translation(message: Any) -> tuple[Tuple, tuple[Address, int]] | None:
    """(the connection as the client knows it, who answers it) of a conntrack message; None where nothing was translated."""
    try:
        asked, answered = message.get_attr("CTA_TUPLE_ORIG"), message.get_attr("CTA_TUPLE_REPLY")
        original = (*_end(asked, "SRC"), *_end(asked, "DST"))
        backend = _end(answered, "SRC")
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return None if backend == original[2:] else (original, backend)


def _end(half: Any, end: str) -> tuple[Address, int]:
    ip, proto = half.get_attr("CTA_TUPLE_IP"), half.get_attr("CTA_TUPLE_PROTO")
    text = ip.get_attr(f"CTA_IP_V4_{end}") or ip.get_attr(f"CTA_IP_V6_{end}")
    return address_of(text), int(proto.get_attr(f"CTA_PROTO_{end}_PORT"))


class Conntrack:
    """Follows one namespace's translations in a thread. `lost`: times the kernel dropped events because we were slow."""

    def __init__(self, netns: str = "") -> None:
        """`netns`: name or path of a network namespace; empty: this process's. Raises OSError where it cannot be followed."""
        self.lost = 0
        self._caught_up = 0.0
        self._known: OrderedDict[Tuple, tuple[Address, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(netns,), name="conntrack", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self._error:
            raise self._error

    def find(self, client: Address, client_port: int, dialled: Address, port: int, at: float) -> Address | None:
        """The address that answers a connection; None too while events of before `at` may be waiting: ports are used again."""
        with self._lock:
            if self._caught_up < at:
                return None
            found = self._known.get((client, client_port, dialled, port))
        return found[0] if found and abs(at - found[1]) < BELIEVED_S else None

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def _run(self, netns: str) -> None:
        # a namespace is a property of the thread: entered here, it touches no other
        try:
            if netns:
                from pyroute2 import netns as namespaces

                namespaces.setns(netns)
            follower = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            follower.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            follower.bind((0, NFNLGRP_CONNTRACK_NEW))
        except OSError as error:
            self._error = error
            return
        finally:
            self._opened.set()
        with follower:
            while not self._stop.is_set():
                now = time.time()
                try:
                    self._take(follower.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    self._caught_up = now
                    select.select([follower], [], [], 0.05)
                except (
                    OSError
                ) as error:  # ENOBUFS: events were lost, and with them the connections that took a port over
                    self.lost += 1
                    log.debug("conntrack: %s", error)
                    with self._lock:
                        self._known.clear()

    def _take(self, data: bytes) -> None:
        from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

        found = []
        now = time.time()
        at = 0
        while at + _HEADER.size <= len(data):
            length = _HEADER.unpack_from(data, at)[0]
            if length < _HEADER.size:
                break
            message = nfct_msg(data[at : at + length])
            message.decode()
            if (pair := translation(message)) is not None:
                found.append(pair)
            at += (length + 3) & ~3
        with self._lock:
            for connection, backend in found:
                self._known[connection] = (backend[0], now)
                self._known.move_to_end(connection)
            while len(self._known) > MAX_TRANSLATIONS:
                self._known.popitem(last=False)
