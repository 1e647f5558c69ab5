"""Connections older than the programs: their roles, from sock_diag.

A packet does not tell which end of an old connection dialled. The socket table does: the end whose port somebody listens on is
the server. Only this network namespace is asked; elsewhere the kernel side guesses from the ports and counts that.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from sidelight.agent import layout

log = logging.getLogger("sidelight.adopt")

TCP_LISTEN, TCP_ESTABLISHED = 10, 1
_STATES = 1 << TCP_LISTEN | 1 << TCP_ESTABLISHED
MAX_ADOPTED = 16384


def roles_of(sockets: list[dict[str, Any]]) -> dict[int, int]:
    """Socket cookie -> role for the established ones of a sock_diag dump (`state`, `sport`, `cookie`)."""
    listening = {entry["sport"] for entry in sockets if entry["state"] == TCP_LISTEN}
    roles = {}
    for entry in sockets:
        if entry["state"] == TCP_ESTABLISHED:
            served = entry["sport"] in listening
            roles[entry["cookie"]] = layout.ROLE_SERVER if served else layout.ROLE_CLIENT
    return dict(list(roles.items())[:MAX_ADOPTED])


def socket_roles() -> dict[int, int]:
    """Roles of the TCP sockets of this network namespace; empty when sock_diag is not to be had."""
    from pyroute2 import DiagSocket
    from pyroute2.netlink.exceptions import NetlinkError

    found: list[dict[str, Any]] = []
    try:
        with DiagSocket() as diag:
            diag.bind()
            for family in (socket.AF_INET, socket.AF_INET6):
                found += [
                    {
                        "state": message["idiag_state"],
                        "sport": message["idiag_sport"],
                        "cookie": message["idiag_cookie"],
                    }
                    for message in diag.get_sock_stats(family=family, states=_STATES)
                ]
    except (NetlinkError, OSError, KeyError, TypeError) as error:
        log.warning("cannot read the socket table, roles of older connections are guessed: %s", error)
    return roles_of(found)
