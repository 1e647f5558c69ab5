"""Totals of a target's pods as a source tells them, and what happened between two of them: the same integers from every source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Kind = Literal["served", "asked", "opened", "ended", "dialled", "sent"]


class Key(NamedTuple):
    """What a total is of. Of `arm` by name: "baseline" or "canary"; `pod`: its name, or the agent's where pods are not told apart.

    kind      totals
    served    exchanges it answered, by duration: one for each bucket, behind them those without a known duration
    asked     exchanges it asked of others, likewise
    opened    connections opened to it, as it sees them: [opened, 0]
    ended     its connections as a server: [ended, of them by reset or time-out]
    dialled   connections clients tried to open to it: [ended well or not, of them failed]
    sent      its segments as a server: [sent, of them again]
    """

    arm: str
    pod: str
    kind: Kind
    family: str = ""
    """http, grpc, redis, ...; empty for connections."""
    stratum: str = ""
    """Who asked, and for what."""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod (or process, or node's agent) of an arm. `since`: seconds since the epoch, 0 when it is not known."""

    arm: str
    name: str
    node: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Totals at a time, of one agent or of a Prometheus. `bounds`: of the durations' buckets, in seconds; one more is above.

    `epoch`: totals of another epoch began at zero again. `lost`: exchanges the source knows it did not count, ever. `absent`: nodes
    with pods of an arm and without an agent that answers. `problems`: what makes its figures doubtful, in words.
    """

    at: float
    bounds: tuple[float, ...]
    totals: dict[Key, Counts]
    pods: tuple[Pod, ...] = ()
    lost: int = 0
    absent: tuple[str, ...] = ()
    epoch: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened between two readings."""

    at: float
    seconds: float
    bounds: tuple[float, ...]
    grown: dict[Key, Counts]
    pods: tuple[Pod, ...]
    lost: int
    absent: tuple[str, ...]
    resets: int
    """Totals that began again."""
    problems: tuple[str, ...] = ()


def difference(before: Reading, after: Reading) -> Interval:
    """Integers only. A total that is smaller than before, or of another epoch, began again at zero, as did a new one."""
    same = before.epoch == after.epoch
    grown: dict[Key, Counts] = {}
    resets = 0 if same else 1
    for key, total in after.totals.items():
        old = before.totals.get(key) if same else None
        if old is None or len(old) != len(total):
            delta = total
        elif (total < old).any():
            delta = total
            resets += 1
        else:
            delta = total - old
        if delta.any():
            grown[key] = delta
    lost = after.lost - before.lost if same and after.lost >= before.lost else after.lost
    return Interval(
        after.at, after.at - before.at, after.bounds, grown, after.pods, lost, after.absent, resets, after.problems
    )


def merge(intervals: list[Interval], absent: tuple[str, ...] = ()) -> Interval:
    """One interval of several agents', which have the same bounds. `absent`: those that did not answer."""
    grown: dict[Key, Counts] = {}
    pods: dict[tuple[str, str], Pod] = {}
    for interval in intervals:
        for key, delta in interval.grown.items():
            grown[key] = grown[key] + delta if key in grown else delta
        for pod in interval.pods:
            known = pods.get((pod.arm, pod.name))
            if known is None or not known.since:
                pods[pod.arm, pod.name] = pod
    return Interval(
        max(interval.at for interval in intervals),
        max(interval.seconds for interval in intervals),
        intervals[0].bounds,
        grown,
        tuple(pods.values()),
        sum(interval.lost for interval in intervals),
        tuple(sorted({*absent, *(name for interval in intervals for name in interval.absent)})),
        sum(interval.resets for interval in intervals),
        tuple(sorted({text for interval in intervals for text in interval.problems})),
    )
