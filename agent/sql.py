"""Statements without what they are about: every literal becomes `?` before a text goes anywhere.

Where the two dialects and the servers' settings disagree on where a literal ends, what follows is not shown at all: a statement
that is cut short is better than a secret.
"""

from __future__ import annotations

import re
from functools import lru_cache

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]*\n? | \#[^\n]*\n? | /\*.*?(?:\*/|\Z) )
  | (?P<dollar> \$(?P<tag>[A-Za-z_]\w*|)\$ )
  | (?P<quote> (?:[A-Za-z_]+\s*)?(?P<mark>['"]) )
  | (?P<name> `[^`]*(?:`|\Z) | \[[A-Za-z_][\w ]*\] )
  | (?P<parameter> \$\d+ | [:@]{1,2}\w+ | %\(?\w*\)?s )
  | (?P<word> [A-Za-z_\x80-\xff][\w$\x80-\xff]* )
  | (?P<number> \d[\w.]* | \.\d[\w.]* )
  | (?P<space> \s+ )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_PREFIXES = {
    "e",
    "n",
    "x",
    "b",
    "u",
    "_utf8",
    "_utf8mb4",
    "_latin1",
    "_binary",
    "date",
    "time",
    "timestamp",
    "interval",
}
_INTRODUCER = re.compile(r"[A-Za-z_]+")
QUERY_CHARACTERS = 192


@lru_cache(1024)
def masked(raw: bytes, identifiers: bool) -> str:
    """The statement's text, without literals and comments, on one line; `raw` may be cut anywhere.

    `identifiers`: a double quote encloses a name (PostgreSQL), not a string (MySQL).
    """
    text = raw.split(b"\0")[0].decode("utf-8", "replace")
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None  # `other` takes anything
        at = match.end()
        if match["dollar"] is not None:
            end = text.find(match["dollar"], at)
            found.append("?")
            if end < 0:
                break
            at = end + len(match["dollar"])
        elif match["quote"] is not None:
            prefix = _INTRODUCER.match(match["quote"])
            if prefix and prefix[0].lower() not in _PREFIXES:
                found.append(prefix[0] + " ")
            end = _end_of_string(text, at, match["mark"])
            if match["mark"] == '"' and identifiers and end:
                found.append(f'"{text[at : end - 1]}"')
            else:
                found.append("?")
            if not end:
                break
            at = end
        elif match["number"] is not None:
            found.append("?")
        elif match["space"] is not None or match["comment"] is not None:
            found.append(" ")
        else:
            found.append(match[0])
    shown = " ".join("".join(found).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)[:QUERY_CHARACTERS]


def _end_of_string(text: str, at: int, mark: str) -> int:
    """Index behind the string that goes on at `at`; 0 where it does not end here, or where a backslash makes that a question."""
    while True:
        end = text.find(mark, at)
        if end < 0 or "\\" in text[at:end]:
            return 0
        if text[end + 1 : end + 2] == mark:  # a doubled one stands for itself
            at = end + 2
            continue
        return end + 1 if end + 1 < len(text) else 0
