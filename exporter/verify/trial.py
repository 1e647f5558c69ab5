"""A comparison as it goes on: a source is read, what it says is added up, and judged after each look."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from sidelight.agent.errors import ConfigError
from sidelight.analysis.comparison import FORMAT, Comparison, Settings
from sidelight.analysis.judge import judge
from sidelight.analysis.readings import Interval
from sidelight.analysis.verdict import FAIL, INCONCLUSIVE, PASS, Verdict
from sidelight.exporter.verify.arms import Arms

MOST_INTERVALS = 5000


class Source(Protocol):
    """Agents, or a Prometheus."""

    name: str

    @property
    def past(self) -> bool: ...
    @property
    def exhausted(self) -> bool: ...
    def start(self) -> Interval | None: ...
    def take(self, *, last: bool = False) -> list[Interval]: ...


class Trial:
    """One comparison. start() once, look() now and then until `ended`. All times are of the clock that is passed in."""

    def __init__(self, arms: Arms, source: Source, settings: Settings, clock: Callable[[], float]) -> None:
        self.arms, self.settings = arms, settings
        self._source, self._clock = source, clock
        self._comparison: Comparison | None = None
        self._began = 0.0
        self.ended = False
        self.verdict: Verdict | None = None

    @property
    def past(self) -> bool:
        """Is everything there that was asked for?"""
        return self._source.past

    def start(self) -> None:
        """Raises SidelightError when the source does not answer."""
        history = self._source.start()
        self._began = self._clock()
        arms = self.arms
        self._comparison = Comparison(
            arms.target, str(arms.baseline), str(arms.canary), self._source.name, self.settings, history
        )

    def look(self, *, last: bool = False) -> Verdict:
        """Takes in what is new and judges all of it. Raises SidelightError."""
        assert self._comparison is not None
        over = self.settings.for_s and self._clock() - self._began >= self.settings.for_s
        for interval in self._source.take(last=last or bool(over)):
            self._comparison.add(interval)
        self.verdict = judge(self.document())
        over = over or self._source.exhausted or self.verdict.looks >= MOST_INTERVALS
        self.ended = last or bool(over) or ends(self.verdict, self.settings)
        return self.verdict

    def document(self) -> dict[str, Any]:
        """What replays to the same verdict."""
        assert self._comparison is not None
        return self._comparison.document()


def ends(verdict: Verdict, settings: Settings) -> bool:
    """Is there nothing to wait for? A FAIL ends it at once; a PASS does where no length was asked for."""
    if settings.single_look:
        return False
    return verdict.verdict == FAIL or (verdict.verdict == PASS and not settings.for_s)


def load(path: Path) -> dict[str, Any]:
    """A kept comparison. Raises ConfigError."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if isinstance(document, dict) and "comparison" in document:
        document = document["comparison"]
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a kept comparison of `sidelight verify`")
    return document


def summary(verdict: Verdict, document: dict[str, Any]) -> dict[str, Any]:
    """What tools read: fields of the whole first, then each metric's."""
    found = asdict(verdict)
    for metric in found["metrics"]:
        if metric["ratio_high"] == float("inf"):
            metric["ratio_high"] = None
    return {
        "verdict": verdict.verdict,
        "pass": verdict.verdict == PASS,
        "fail": verdict.verdict == FAIL,
        "inconclusive": verdict.verdict == INCONCLUSIVE,
        "sentence": verdict.sentence,
        "target": document["target"],
        "baseline": document["baseline"],
        "canary": document["canary"],
        "source": document["source"],
        "settings": document["settings"],
        **{name: value for name, value in found.items() if name not in ("verdict", "sentence")},
    }
