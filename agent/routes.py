"""HTTP routes: the same answers as bpf/l7/route.h gives, and the table of transitions it walks. Pure.

Templates (`/users/{id}/orders`, `/static/*`) win, the first that matches; else, where asked for, segments that say which and
not what fold to `*`: numbers, UUIDs, hexadecimal of sixteen or more with a digit in it, what contains '@'.
"""

from __future__ import annotations

import re

from sidelight.agent import layout
from sidelight.agent.errors import ConfigError
from sidelight.agent.operations import SEED, hash_word

ROOT = 1
ANY, END = 0, 1
"""Transitions that are no segment's hash: for any other segment; to the operation of a path that ends here."""
FOLD, TEMPLATES = 1, 2
"""Bits of settings.routes."""
MAX_STEPS = 8192
_STATE = layout.parse_constants(layout.source("l7/state.h"))
ROUTE_BYTES, ROUTE_SEGMENTS = _STATE["ROUTE_BYTES"], _STATE["ROUTE_SEGMENTS"]
_PARAMETER = re.compile(r"^\{[A-Za-z_][A-Za-z0-9_]*\}$")
_PATH_END = re.compile(rb"[ ?#\r\n]")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_DIGITS = frozenset(b"0123456789")


def path_of(target: bytes) -> bytes | None:
    """The path a request target begins with; None when it is too long, or none."""
    path = _PATH_END.split(target + b" ", maxsplit=1)[0]
    return path if path.startswith(b"/") and len(path) < ROUTE_BYTES else None


def folds(segment: bytes) -> bool:
    """Does a segment say which, not what?"""
    digits, hexadecimal = sum(c in _DIGITS for c in segment), sum(c in _HEX for c in segment)
    number = bool(segment) and digits == len(segment)
    long_hex = hexadecimal == len(segment) and len(segment) >= 16 and digits > 0
    uuid = len(segment) == 36 and segment.count(b"-") == 4 and hexadecimal == 32
    return number or long_hex or uuid or b"@" in segment


def fold(path: bytes) -> bytes | None:
    """The path with `*` for each segment that folds; None when that is longer than an operation's text may be."""
    folded = b"/".join(b"*" if folds(segment) else segment for segment in path.split(b"/"))
    return folded if len(folded) <= layout.CONSTANTS["OPERATION_BYTES"] else None


def segment_hash(segment: bytes) -> int:
    hash_ = SEED
    for character in segment:
        hash_ = hash_word(hash_, character)
    return hash_


def segments_of(template: str) -> tuple[str, ...]:
    """Raises ConfigError."""
    if not template.startswith("/"):
        raise ConfigError(f"--http-route {template!r}: a template begins with /, as in /users/{{id}}")
    parts = tuple(template.strip("/").split("/"))
    for place, part in enumerate(parts):
        if part == "*" and place < len(parts) - 1:
            raise ConfigError(f"--http-route {template!r}: * stands at the end only")
        if ("{" in part or "}" in part) and not _PARAMETER.match(part):
            raise ConfigError(f"--http-route {template!r}: {part!r} is no parameter; want a whole segment like {{id}}")
    if len(template.encode()) > layout.CONSTANTS["OPERATION_BYTES"] or len(parts) >= ROUTE_SEGMENTS:
        raise ConfigError(f"--http-route {template!r}: too long")
    return parts


class Templates:
    """Templates as a deterministic automaton over segments: a walk needs no way back.

    A state is a set of (template, segments matched); a template that ends in `*` stays in it once it has been reached.
    """

    def __init__(self, templates: tuple[str, ...] = ()) -> None:
        """Raises ConfigError."""
        self.templates = templates
        self._parts = [segments_of(template) for template in templates]
        self.steps: dict[tuple[int, int], int] = {}
        """(state, segment's hash, ANY) -> state; (state, END) -> 1 + index of the template."""
        start = frozenset((index, 0) for index in range(len(templates)))
        self._states: dict[frozenset[tuple[int, int]], int] = {start: ROOT}
        waiting = [start]
        while waiting:
            waiting += self._expand(waiting.pop())
            if len(self.steps) > MAX_STEPS:
                raise ConfigError(f"--http-route: {len(templates)} templates need more than {MAX_STEPS} transitions")

    def _rest(self, item: tuple[int, int]) -> bool:
        index, matched = item
        return self._parts[index][matched : matched + 1] == ("*",)

    def _expand(self, state: frozenset[tuple[int, int]]) -> list[frozenset[tuple[int, int]]]:
        number = self._states[state]
        fresh: list[frozenset[tuple[int, int]]] = []

        def lead(transition: int, to: frozenset[tuple[int, int]]) -> None:
            if to:
                if to not in self._states:
                    self._states[to] = len(self._states) + ROOT
                    fresh.append(to)
                self.steps[number, transition] = self._states[to]

        rests = frozenset(item for item in state if self._rest(item))
        ends = [item for item in state if item in rests or item[1] == len(self._parts[item[0]])]
        if ends:
            self.steps[number, END] = 1 + min(index for index, _ in ends)
        following = {
            item: self._parts[item[0]][item[1]] for item in state - rests if item[1] < len(self._parts[item[0]])
        }
        any_ = frozenset((i, n + 1) for (i, n), part in following.items() if part.startswith("{")) | rests
        lead(ANY, any_)
        for literal in {part for part in following.values() if not part.startswith("{")}:
            lead(
                segment_hash(literal.encode()),
                frozenset((i, n + 1) for (i, n), part in following.items() if part == literal) | any_,
            )
        if (number, SEED) not in self.steps:
            # a slash at the end: as without it; nothing is no parameter's value, and state 0 leads nowhere
            self.steps[number, SEED] = 0
            lead(SEED, frozenset(ends))
        return fresh

    def match(self, path: bytes) -> str:
        """The template that a path falls under, as the kernel finds it; empty for none."""
        segments = path.split(b"/")
        if len(segments) > ROUTE_SEGMENTS:
            return ""
        state = ROOT
        for segment in segments[1:]:
            found = self.steps.get((state, segment_hash(segment)))
            if found is None:
                found = self.steps.get((state, ANY))
            if found is None:
                return ""
            state = found
        template = self.steps.get((state, END))
        return self.templates[template - 1] if template else ""


def route(target: bytes, templates: Templates, *, folding: bool) -> str:
    """The operation of a request target; empty for none."""
    path = path_of(target)
    if path is None:
        return ""
    found = templates.match(path)
    if found or not folding:
        return found
    return (fold(path) or b"").decode("latin-1")
