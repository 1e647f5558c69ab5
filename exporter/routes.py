"""`http.route` of a path: from configured templates, or by a heuristic that is off by default. Pure.

For spans only. The counters behind the metrics are kept in the kernel, by method and status: a path never becomes a label.
"""

from __future__ import annotations

import re

from sidelight.agent.errors import ConfigError

MAX_ROUTES = 200
OTHER = "{other}"
_PARAMETER = re.compile(r"^\{[A-Za-z_][A-Za-z0-9_]*\}$")
_IDENTIFIER = re.compile(
    r"^(?:\d+|[0-9a-f]{8,}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?=.*\d)[\w.~-]{20,}|.*%.*)$",
    re.I,
)


class Routes:
    """Templates (`/users/{id}/orders`, `/static/*`), first match wins; then, if asked for, the heuristic.

    The heuristic puts `{id}` where a segment looks like one: digits, hexadecimal of eight or more, a UUID, twenty characters
    with a digit among them, anything percent-encoded. It keeps three segments and MAX_ROUTES routes; others are `{other}`.
    """

    def __init__(self, templates: tuple[str, ...] = (), *, heuristic: bool = False) -> None:
        """Raises ConfigError."""
        self._templates = [(template, _segments(template)) for template in templates]
        self._heuristic = heuristic
        self._made: set[str] = set()

    def route(self, path: str) -> str:
        """The route; empty when nothing applies."""
        parts = path.strip("/").split("/")
        for template, wanted in self._templates:
            if _matches(parts, wanted):
                return template
        if not self._heuristic:
            return ""
        made = (
            "/"
            + "/".join("{id}" if _IDENTIFIER.match(part) else part for part in parts[:3])
            + ("/*" if len(parts) > 3 else "")
        )
        if made in self._made:
            return made
        if len(self._made) >= MAX_ROUTES:
            return OTHER
        self._made.add(made)
        return made


def _segments(template: str) -> list[str]:
    if not template.startswith("/"):
        raise ConfigError(f"--http-route {template!r}: a template begins with /, as in /users/{{id}}")
    parts = template.strip("/").split("/")
    for place, part in enumerate(parts):
        if part == "*" and place < len(parts) - 1:
            raise ConfigError(f"--http-route {template!r}: * stands at the end only")
        if ("{" in part or "}" in part) and not _PARAMETER.match(part):
            raise ConfigError(f"--http-route {template!r}: {part!r} is no parameter; want a whole segment like {{id}}")
    return parts


def _matches(parts: list[str], wanted: list[str]) -> bool:
    if wanted[-1] == "*":
        wanted = wanted[:-1]
        parts = parts[: len(wanted)]
    return len(parts) == len(wanted) and all(w.startswith("{") or w == p for w, p in zip(wanted, parts, strict=True))
