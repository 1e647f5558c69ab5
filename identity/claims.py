"""Who had an address, and from when until when: claims, their ends, and what is contested in between.

Nobody tells the moment an address changes hands. What is told: the new pod cannot have had it before it was bound to its node, the
old one not after its containers had ended. Between the two the claim is contested: such flows are unknown, not guessed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from sidelight.identity.model import Identity, unknown
from sidelight.identity.names import Address, is_ipv4

FOREVER = float("inf")
SETTLE_S = 2.0
"""Before its object said so a new pod may already have used its address: by at most this, unless another owned it then."""
_NETWORKS = 100_000
CONTESTED = unknown("address changed hands")


@dataclass(slots=True)
class Claim:
    """`owner` had the address from `since` until `until`, in seconds since the epoch."""

    since: float
    until: float
    owner: Identity
    ending: bool = False
    """The owner is being deleted: its address may go to another before we are told."""


class Claims:
    """Claims by address. What has ended is kept for `tombstone_s`. Not thread-safe: the index has the lock."""

    def __init__(self, tombstone_s: float) -> None:
        self.tombstone_s = tombstone_s
        self._claims: dict[Address, tuple[Claim, ...]] = {}
        self._networks: set[bytes] = set()
        """Prefixes (IPv4 /24, IPv6 /64) in which pods have had addresses."""
        self.tombstones: deque[tuple[float, Address | str]] = deque()
        """(when, what to forget then): an address whose claims have ended, or a pod's UID."""

    def __len__(self) -> int:
        return len(self._claims)

    def of(self, address: Address) -> tuple[Claim, ...]:
        return self._claims.get(address, ())

    def at(self, address: Address, at: float) -> Claim | None:
        """The claim that held at a time."""
        claims = self._claims.get(address)
        if not claims:
            return None
        for claim in reversed(claims):
            if claim.since <= at < claim.until:
                return claim
        # the object comes after the first packet: the next owner, unless somebody else had the address then
        for claim in claims:
            if claim.since > at and claim.since - at <= SETTLE_S:
                return claim
        return None

    def span(self, address: Address, at: float) -> tuple[float, float]:
        """From when until when the answer for `at` holds, as far as is known."""
        claims = self._claims.get(address)
        if not claims:
            return -FOREVER, FOREVER
        return next(
            ((claim.since, claim.until) for claim in reversed(claims) if claim.since <= at < claim.until), (at, at)
        )

    def unsettled(self, address: Address, now: float) -> bool:
        """May it soon turn out to be another's than is said?"""
        claims = self._claims.get(address)
        if not claims:
            return _network(address) in self._networks  # a pod of which we have not been told
        last = claims[-1]
        return last.ending if last.until == FOREVER else now - last.until < SETTLE_S

    def add(self, address: Address, born: float, at: float, owner: Identity, ending: bool = False) -> None:
        """`owner` has the address now, and has had it since `born` at the earliest."""
        self._networks.add(_network(address))
        if len(self._networks) > _NETWORKS:
            self._networks.clear()
        claims = self._claims.get(address, ())
        since = born
        for claim in claims:
            if claim.until > born and claim.owner.uid != owner.uid:
                # between `born` and the end of the other, as far as that is known, it may have been either's
                since = max(since, min(claim.until, at))
                claim.until = max(born, claim.since)
                self.tombstones.append((at + self.tombstone_s, address))
        added = [Claim(since, FOREVER, owner, ending)]
        if since > born:
            added.append(Claim(born, since, CONTESTED))
        self._claims[address] = tuple(sorted((*claims, *added), key=lambda claim: claim.since))

    def rename(self, addresses: Iterable[Address], owner: Identity, ending: bool) -> None:
        """News of an owner: its claims get its names of now."""
        for address in addresses:
            for claim in self._claims.get(address, ()):
                if claim.owner.uid == owner.uid:
                    claim.owner, claim.ending = owner, ending

    def end(self, uid: str, addresses: Iterable[Address], at: float) -> None:
        """The owner has these addresses no longer."""
        for address in addresses:
            for claim in self._claims.get(address, ()):
                if claim.owner.uid == uid and claim.until > at:
                    claim.until = at
                    self.tombstones.append((at + self.tombstone_s, address))

    def drop_ended(self, address: Address, at: float) -> None:
        """Forgets an address's claims that ended more than the tombstone time ago."""
        claims = tuple(claim for claim in self._claims.get(address, ()) if claim.until + self.tombstone_s > at)
        if claims:
            self._claims[address] = claims
        else:
            self._claims.pop(address, None)


def _network(address: Address) -> bytes:
    return address[:15] if is_ipv4(address) else address[:8]
