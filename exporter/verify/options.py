"""Settings of a comparison as people and tools write them: one list for flags, queries and webhooks' metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sidelight.agent.errors import ConfigError
from sidelight.analysis.comparison import MEASURES, Settings, tolerance_of
from sidelight.analysis.evidence import Tolerance

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h)$")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S = 24 * 3600.0
_METRIC = re.compile(r"^[a-z0-9_.-]{1,64}$")


def seconds(text: str) -> float:
    """Of 250ms, 5s, 10m. Raises ConfigError."""
    match = _DURATION.match(text.strip())
    if not match or float(match[1]) * _UNITS[match[2]] > LONGEST_S:
        raise ConfigError(f"{text!r} is not a duration: want 250ms, 5s, 10m, a day at most")
    return float(match[1]) * _UNITS[match[2]]


def share(text: str) -> float:
    """Of 10% or 0.1. Raises ConfigError."""
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{text!r} is not a share: want 10% or 0.1")
    return value


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no", ""):
        return False
    raise ConfigError(f"{text!r}: want true or false")


def _unit(text: str) -> str:
    if text not in ("exchange", "pod"):
        raise ConfigError(f"unit {text!r}: want exchange or pod")
    return text


def _interval(text: str) -> float:
    value = seconds(text)
    if value < 1.0:
        raise ConfigError("interval: a second at least")
    return value


_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "for": ("for_s", seconds),
    "interval": ("interval_s", _interval),
    "warm-up": ("warm_up_s", seconds),
    "alpha": ("alpha", share),
    "beta": ("beta", share),
    "unit": ("unit", _unit),
    "single-look": ("single_look", _flag),
    "expected-share": ("expected_share", share),
    "slower-than": ("slower_than_s", seconds),
}
_TOLERANCES = {"max-error-increase": ("errors",), "max-share-increase": ("slow", "tail")}


def settings_of(asked: Mapping[str, str]) -> Settings:
    """`for=10m`, `max-error-increase=0.1pp`, `tolerance.http.errors=x1.5`, `advisory=tail,resets`. Raises ConfigError."""
    settings = Settings()
    tolerances: dict[str, Tolerance] = {}
    for name, text in asked.items():
        if name in _FIELDS:
            field, convert = _FIELDS[name]
            settings = replace(settings, **{field: _told(name, convert, text)})
        elif name in _TOLERANCES:
            tolerances |= dict.fromkeys(_TOLERANCES[name], _told(name, tolerance_of, text))
        elif name.startswith("tolerance."):
            tolerances[metric(name.removeprefix("tolerance."))] = _told(name, tolerance_of, text)
        elif name == "advisory":
            settings = replace(settings, advisory=tuple(metric(part) for part in text.split(",") if part))
        else:
            known = ", ".join([*_FIELDS, *_TOLERANCES, "tolerance.METRIC", "advisory"])
            raise ConfigError(f"unknown option {name[:40]!r}; known: {known}")
    settings = replace(settings, tolerances=tolerances)
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """What does not go together. Raises ConfigError."""
    if settings.single_look and not settings.for_s:
        raise ConfigError("a single look needs to be told when: say for how long (for)")
    if settings.single_look and any(tolerance.margin for tolerance in settings.tolerances.values()):
        raise ConfigError(
            "a single look is a conditional test: its tolerances are factors (x1.5), without percentage points"
        )


def metric(text: str) -> str:
    """A measure's or metric's name. Raises ConfigError."""
    measures = {measure.name for measure in MEASURES}
    if not _METRIC.match(text) or text.rpartition(".")[2] not in measures:
        raise ConfigError(f"{text[:40]!r} is no metric: want {', '.join(sorted(measures))}, or one such as http.errors")
    return text


def _told(name: str, convert: Callable[[str], Any], text: str) -> Any:
    try:
        return convert(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
