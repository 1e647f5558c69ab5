"""What is compared with what: `shop/catalogue`, `version=v1`, `version=v2`, as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sidelight.agent.errors import ConfigError
from sidelight.analysis.comparison import ARMS

_KEY = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")
_VALUE = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
MOST_TEXT = 253


@dataclass(frozen=True, slots=True)
class Selector:
    """Pods whose version, workload or labels are these: `version=v1`, `workload=shop-primary`, `track=canary,version=v2`."""

    pairs: tuple[tuple[str, str], ...]

    def matches(self, workload: str, version: str, labels: dict[str, str]) -> bool:
        known = {"workload": workload, "version": version}
        return all((known.get(key) or labels.get(key, "")) == value for key, value in self.pairs)

    @property
    def workload(self) -> str:
        return dict(self.pairs).get("workload", "")

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.pairs)


def selector_of(text: str) -> Selector:
    """Raises ConfigError."""
    pairs = []
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or len(part) > MOST_TEXT or not _KEY.match(key) or not _VALUE.match(value):
            raise ConfigError(
                f"{text!r} is not a selector: want version=v1, workload=NAME or LABEL=VALUE, joined by commas"
            )
        pairs.append((key, value))
    if len({key for key, _ in pairs}) != len(pairs):
        raise ConfigError(f"{text!r} names a key twice")
    return Selector(tuple(pairs))


@dataclass(frozen=True, slots=True)
class Arms:
    """Whose pods are compared. `namespace` is empty outside Kubernetes."""

    namespace: str
    name: str
    baseline: Selector
    canary: Selector

    @property
    def target(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """What the pods' workload or app may be called."""
        return tuple(dict.fromkeys(n for n in (self.name, self.baseline.workload, self.canary.workload) if n))

    def arm(self, workload: str, version: str, labels: dict[str, str]) -> str:
        """baseline, canary, or empty."""
        for arm, selector in zip(ARMS, (self.baseline, self.canary), strict=True):
            if selector.matches(workload, version, labels):
                return arm
        return ""


def arms_of(target: str, baseline: str, canary: str) -> Arms:
    """`NAMESPACE/NAME`, or `NAME` outside Kubernetes. Raises ConfigError."""
    namespace, _, name = target.rpartition("/")
    if len(target) > MOST_TEXT or not _VALUE.match(name) or (namespace and not _VALUE.match(namespace)):
        raise ConfigError(f"{target!r} is not NAMESPACE/NAME")
    found = Arms(namespace, name, selector_of(baseline), selector_of(canary))
    if found.baseline == found.canary:
        raise ConfigError("baseline and canary are the same pods")
    return found
