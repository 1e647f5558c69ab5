"""Totals by pod from agents' closeups (agent/closeup.py). An agent sees its node's pods: all agents together see all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sidelight.agent import layout
from sidelight.agent.errors import SidelightError
from sidelight.analysis.readings import Counts, Interval, Key, Pod, Reading, difference, merge
from sidelight.exporter.catalog import CLASSIC_BUCKETS
from sidelight.exporter.verify.arms import Arms

Ask = Callable[[str], dict[str, Any]]
"""The query `closeup` of one agent. Raises SidelightError when it does not answer."""


def bounds_used(slower_than_s: float = 0.0) -> tuple[int, ...]:
    """Indexes of the kernel's bounds: those of /metrics, and the one nearest to what was asked for. Counts are exact at each."""
    bounds = layout.BUCKET_BOUNDS_S
    extra = {min(range(len(bounds)), key=lambda i: abs(bounds[i] / slower_than_s - 1))} if slower_than_s else set()
    return tuple(sorted({*CLASSIC_BUCKETS, *extra}))


def fold(counts: dict[str, int], used: tuple[int, ...]) -> Counts:
    """A row of the kernel's buckets, sparse -> counts up to each used bound, above the last, and those without a time."""
    found = np.zeros(len(used) + 2, np.int64)
    for text, count in counts.items():
        index = int(text)
        found[-1 if index == layout.LATENCY_BUCKETS else int(np.searchsorted(used, index))] += int(count)
    return found


def reading(document: dict[str, Any], arms: Arms, used: tuple[int, ...], part: str = "rows") -> Reading:
    """A closeup's document by arms. Raises SidelightError for one that is none."""
    bounds = tuple(layout.BUCKET_BOUNDS_S[index] for index in used)
    try:
        ours = [arms.arm(pod["workload"], pod["version"], pod["labels"]) for pod in document["pods"]]
        known = {
            (arms.arm(pod["workload"], pod["version"], pod["labels"]), pod["name"]): pod for pod in document["known"]
        }
        totals: dict[Key, Counts] = {}
        serving = set()
        for row in document[part]:
            arm, name = ours[row["pod"]], document["pods"][row["pod"]]["name"]
            if not arm:
                continue
            if part == "history":
                name = ""  # the books have workloads
            elif row["kind"] != "dialled":
                serving.add(row["pod"])
            key = Key(arm, name, row["kind"], row["family"], row["stratum"], row["failed"])
            served = row["kind"] in ("served", "asked")
            counts = fold(row["counts"], used) if served else _pair(row["counts"])
            totals[key] = totals[key] + counts if key in totals else counts
        pods = {
            (ours[index], pod["name"]): Pod(ours[index], pod["name"], pod["node"] or document["node"], 0.0)
            for index, pod in enumerate(document["pods"])
            if index in serving
        }
        pods |= {
            (arm, name): Pod(arm, name, pod["node"], max(0.0, float(pod["since"])))
            for (arm, name), pod in known.items()
            if arm
        }
        return Reading(
            float(document["at"]), bounds, totals, tuple(pods.values()), int(document["lost"]), epoch=document["id"]
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SidelightError(f"not an agent's answer: {error!r}") from None


def _pair(counts: dict[str, int]) -> Counts:
    return np.array([int(counts.get("0", 0)), int(counts.get("1", 0))], np.int64)


class Agents:
    """A source (trial.py): several agents, each compared with what it said itself before."""

    exhausted = past = False
    """There is always more to come."""

    def __init__(self, agents: Sequence[tuple[str, Ask]], arms: Arms, slower_than_s: float = 0.0) -> None:
        self._agents = agents
        self._arms = arms
        self._used = bounds_used(slower_than_s)
        self._last: dict[str, Reading] = {}
        self._nodes: dict[str, str] = {}
        self.name = "agents: " + ", ".join(name for name, _ in agents)

    def start(self) -> Interval | None:
        """Opens the closeups. Returns what the agents had of the baseline before. Raises SidelightError when none answers."""
        histories = []
        for name, document in self._ask(fresh=True):
            self._last[name] = reading(document, self._arms, self._used)
            before = reading(document, self._arms, self._used, "history")
            nothing = Reading(before.at, before.bounds, {}, epoch=before.epoch)
            histories.append(difference(nothing, before))
        return merge(histories) if histories else None

    def take(self, *, last: bool = False) -> list[Interval]:
        """What happened since the last time; nothing when no agent answers. `last`: with what the kernels have now."""
        intervals = []
        try:
            answers = self._ask(fresh=last)
        except SidelightError:
            return []
        for name, document in answers:
            now = reading(document, self._arms, self._used)
            before = self._last.get(name) or Reading(now.at, now.bounds, {}, epoch=now.epoch)
            intervals.append(difference(before, now))
            self._last[name] = now
        merged = merge(intervals)
        seen = set(self._nodes.values())
        absent = tuple(sorted({pod.node for pod in merged.pods if pod.node and pod.node not in seen}))
        return [merge([merged], absent)]

    def _ask(self, *, fresh: bool) -> list[tuple[str, dict[str, Any]]]:
        argument = json.dumps({"namespace": self._arms.namespace, "names": self._arms.names, "fresh": fresh})
        found, problem = [], None
        for name, ask in self._agents:
            try:
                document = ask(argument)
            except SidelightError as error:
                problem = error
                continue
            self._nodes[name] = str(document.get("node", name))
            found.append((name, document))
        if not found:
            raise problem or SidelightError("no agent answers")
        return found
