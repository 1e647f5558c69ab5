"""Names for addresses outside, as the workload itself learned them: DNS answers, TLS server names, HTTP hosts, /etc/hosts.

Per cgroup, because two workloads can know one address by two names. Bounded: the least recently used entry goes first.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sidelight.identity.model import Provenance

MAX_NAMES = 65536
MIN_TTL_S = 30.0
"""Connections outlive short TTLs: a name is believed at least this long after its answer."""
MAX_TTL_S = 3600.0
_RANK = {Provenance.DNS: 3, Provenance.SNI: 2, Provenance.HOST: 1}

Address = bytes
"""16 bytes in network order; IPv4 as ::ffff:a.b.c.d."""


def address_of(text: str) -> Address:
    """16 bytes of an address in text. Raises ValueError."""
    parsed = ipaddress.ip_address(text.split("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + parsed.packed
    return parsed.packed


def is_ipv4(address: Address) -> bool:
    return address[:12] == b"\0" * 10 + b"\xff\xff"


def address_text(address: Address) -> str:
    """The address as people write it."""
    if is_ipv4(address):
        return f"{address[12]}.{address[13]}.{address[14]}.{address[15]}"
    return ipaddress.IPv6Address(address).compressed


def is_loopback(address: Address) -> bool:
    return address[12] == 127 if is_ipv4(address) else address == b"\0" * 15 + b"\x01"


@dataclass(frozen=True, slots=True)
class LearnedName:
    """A name with its source; `until` in seconds of the flows' clock."""

    name: str
    provenance: Provenance
    until: float


@lru_cache(maxsize=1024)
def clean_host(host: str) -> str:
    """A DNS name fit for display: lower case, without port, trailing dot or anything a terminal would obey. Else empty."""
    host = host.strip().rstrip(".").lower()
    if host.startswith("["):
        return ""
    host = host.split(":")[0]
    if not host or len(host) > 253 or not all(c.isalnum() or c in "-_." for c in host) or not host.isascii():
        return ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return ""


FRESH_S = 10.0
"""A name that is learnt again within this time is left as it is: requests name their hosts all the time."""


class LearnedNames:
    """(cgroup, address) -> name. `version` grows with every change, for caches built on it."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._names: OrderedDict[tuple[int, Address], LearnedName] = OrderedDict()
        self._limit = limit
        self.version = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, cgroup_id: int, address: Address, name: str, how: Provenance, at: float, ttl: float) -> None:
        """Keeps a name unless a better source already named the address."""
        name = clean_host(name)
        if not name:
            return
        key = (cgroup_id, address)
        known = self._names.get(key)
        if known and known.until >= at and _RANK[known.provenance] > _RANK[how]:
            return
        until = at + min(max(ttl, MIN_TTL_S), MAX_TTL_S)
        if known and known.name == name and known.provenance is how and 0 <= until - known.until < FRESH_S:
            return
        if known is None or known.name != name or known.until < at:
            self.version += 1
        self._names[key] = LearnedName(name, how, until)
        self._names.move_to_end(key)
        while len(self._names) > self._limit:
            self._names.popitem(last=False)
            self.evicted += 1

    def items(self) -> list[tuple[tuple[int, Address], LearnedName]]:
        return list(self._names.items())

    def find(self, cgroup_id: int, address: Address, at: float) -> LearnedName | None:
        found = self._names.get((cgroup_id, address))
        return found if found and found.until >= at else None


def read_hosts(path: Path = Path("/etc/hosts")) -> dict[Address, str]:
    """Address -> first name, from a hosts file; lines that make no sense are passed over, loopback is left out."""
    found: dict[Address, str] = {}
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return found
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 2 or not (name := clean_host(words[1])):
            continue
        try:
            address = address_of(words[0])
        except ValueError:
            continue
        if not is_loopback(address):
            found.setdefault(address, name)
    return found


class CidrGroups:
    """Names for networks, from configuration: the longest prefix wins."""

    def __init__(self, groups: dict[str, str] | None = None) -> None:
        """`groups`: CIDR -> name. Raises ValueError for what is none."""
        self._groups = sorted(
            ((ipaddress.ip_network(cidr, strict=False), name) for cidr, name in (groups or {}).items()),
            key=lambda entry: -entry[0].prefixlen,
        )

    def find(self, address: Address) -> str | None:
        if not self._groups:
            return None
        parsed = ipaddress.ip_address(address_text(address))
        for network, name in self._groups:
            if parsed.version == network.version and parsed in network:
                return name
        return None
