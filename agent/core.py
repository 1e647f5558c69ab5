"""The agent: one thread that reads, names, books and publishes. Everything it offers to others is a snapshot or a ring."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidelight.agent import attribute, decode, handover, layout
from sidelight.agent.books import Books, EdgeKey, Table
from sidelight.agent.closeup import Target, described
from sidelight.agent.errors import SidelightError
from sidelight.agent.flows import FlowBatch, FlowRing, select
from sidelight.agent.governor import Governor, Level
from sidelight.agent.loader import LoadReport, LoadRequest, Pins, run_loader, unload
from sidelight.agent.operations import Ages, identify
from sidelight.agent.routes import Templates
from sidelight.agent.settings import AgentSettings, CaptureSettings, StateDirectory
from sidelight.agent.source import Generation, ProgramCost, Source
from sidelight.identity.cgroups import CgroupTree
from sidelight.identity.conntrack import Conntrack
from sidelight.identity.names import CidrGroups, LearnedNames, read_hosts
from sidelight.identity.processes import common_name
from sidelight.identity.resolver import ClusterIndex, Resolver

log = logging.getLogger("sidelight.agent")

READ_AT_FILL = 0.25
"""Share of the event ring at which it is read; the rest is for bursts."""
AFTER_SILENCE = 0.4
"""Share of the longest pause, after a reading that found nothing."""
SWEEP_S = 10.0
"""Between looks at what connections of very many streams have left behind (bpf/l7/http2.h)."""
HOLD_FLOWS_S = 2.0
HELD_BATCHES = 256
"""Flows wait this long for a better name, in this many batches at most: at 250 events a second, CPU and class within 10 MB."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Flows that may soon be named better. Times of the monotonic clock."""

    look_at: float
    deadline: float
    known: tuple[int, int]
    """What the resolver knew when they were named."""
    flows: FlowBatch


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All figures at one moment; nothing in it changes any more. Times in seconds since the epoch."""

    at: float
    started_at: float
    generation: int
    edges: Table
    latencies: Table
    kernel: dict[str, int]
    costs: list[ProgramCost]
    flows_seen: int
    ring_bytes: int
    malformed_events: int
    malformed_payloads: int
    resolutions: dict[tuple[str, str], int]
    unresolved: dict[str, int]
    edge_fill: float
    latency_fill: float
    event_fill: float
    names: int
    operations: dict[int, str]
    level: int
    cpu_seconds: float
    rss_bytes: int
    load: LoadReport
    staleness_s: float = 0.0
    events_read: int = 0
    active_calls: dict[tuple[EdgeKey, int], int] = field(default_factory=dict)
    """gRPC calls that go on, by edge and operation."""
    flows_held: int = 0
    """Flows that wait for a better name."""
    extra: dict[str, float] = field(default_factory=dict)


def next_pause(pause_s: float, fill: float, longest_s: float) -> float:
    """Seconds until the event ring is to be read again: until it is about a quarter full. `fill`: its share after `pause_s`.

    Soon when it was empty: what comes after a silence is looked for, and large batches are for steady traffic.
    """
    if fill <= 0.0:
        return longest_s * AFTER_SILENCE
    return min(longest_s, max(longest_s / 20, pause_s * READ_AT_FILL / fill))


def settings_record(capture: CaptureSettings) -> np.ndarray:
    """struct settings."""
    record = np.zeros(1, layout.SETTINGS)
    for name in layout.SETTINGS.names or ():
        if name != "pad":
            record[name] = getattr(capture, name)
    return record


class Agent:
    """Owns an instance: its pins, state directory, books and flows.

    start() loads the programs and begins; stop() ends the thread and leaves the programs counting.
    """

    def __init__(self, settings: AgentSettings, index: ClusterIndex | None = None) -> None:
        self.settings = settings
        self.flows = FlowRing(settings.ring_bytes)
        self.ready = threading.Event()
        self.failed: str = ""
        self.first_flow_s = 0.0
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._state = StateDirectory(settings.state, settings.instance)
        self.index = index
        self._loading: Future[LoadReport] | None = None
        self._malformed = 0
        self._drains = self._drains_begun = 0
        self._swept_at = 0.0
        self._hurry = threading.Event()
        self._held: deque[_Held] = deque()
        self._read = 0
        self.conntrack: Conntrack | None = None
        self.exports: dict[str, int] = {}
        """Counts that exporters keep of themselves, by metric name; read into snapshots."""

    def load_programs(self) -> Future[LoadReport]:
        """Begins it, once, in a process of its own: there may be other things to do before start() or forgo()."""
        if self._loading is None:
            settings = self.settings
            request = LoadRequest(str(settings.cgroup), settings.instance, str(settings.bpffs), settings.sizes)
            self._loading = ThreadPoolExecutor(1, "loader").submit(run_loader, request)
        return self._loading

    def forgo(self) -> None:
        """Instead of start(): takes off what has been loaded, unless it had been there before."""
        with contextlib.suppress(SidelightError):
            if self.load_programs().result().status == "fresh":
                unload(self.settings.instance, self.settings.bpffs)
        self._state.release()

    def start(self) -> None:
        """Opens what is loaded, recovers what a predecessor left, and starts the pipeline. Raises SidelightError."""
        settings = self.settings
        try:
            self.load = self.load_programs().result()
            self._pins = Pins.of(settings.instance, settings.bpffs)
            self.source = Source(self._pins, settings.sizes)
        except SidelightError:
            self._state.release()
            raise
        journal = self._state.journal if settings.keep_state else None
        if journal:
            self._inherit(journal)
        self.tree = CgroupTree(settings.cgroup_root)
        self.resolver = Resolver(
            self.tree,
            common_name,
            index=self.index,
            names=LearnedNames(),
            hosts=read_hosts(),
            cidrs=CidrGroups(settings.cidrs),
            cluster=settings.cluster,
            node=settings.node,
            external_suffixes=settings.external_suffixes,
        )
        if settings.conntrack is not None:
            try:
                self.conntrack = Conntrack(settings.conntrack)
            except OSError as error:
                log.warning("connection tracking cannot be followed, backends are named without it: %s", error)
        self.learner = attribute.Learner(self.resolver)
        self.books = Books(journal)
        self.governor = Governor(settings.cpu_budget, settings.memory_budget)
        self.started_at = time.time()
        templates = {identify(template.encode())[0]: template for template in settings.http_routes}
        self.books.learn(templates)
        self.source.set_routes(Templates(settings.http_routes))
        self._ages = Ages(self.source.operation_capacity, frozenset(templates))
        self.source.announce_again(self.books.operations)
        self.source.configure(settings_record(settings.capture))
        self.source.adopt(self.load.roles)
        self._recover()
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Books what is there and ends. The programs stay and go on counting."""
        self._stop.set()
        self._hurry.set()
        self._thread.join(timeout=10)
        if self.conntrack:
            self.conntrack.stop()
        self.flows.close()
        self._bequeath()
        self.books.close()
        self.tree.close()
        self._state.release()

    def _inherit(self, journal: Path) -> None:
        """The predecessor's totals: its journal where that is still there, else what it left beside the maps."""
        left = handover.take(self._pins.handover)
        if self.load.status != "kept":
            journal.unlink(missing_ok=True)  # fresh maps count generations from zero again
        elif left is not None and not journal.exists():
            journal.write_bytes(left)

    def _bequeath(self) -> None:
        if not self.settings.keep_state:
            return
        try:
            self.books.compact()
            handover.give(self._state.journal.read_bytes(), self._pins.handover)
        except (SidelightError, OSError) as error:
            log.warning("totals are not left for the next agent: %s", error)

    # -- the pipeline --------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        left = self.source.recover()
        with self._lock:
            if self.settings.keep_state:
                if left.number > self.books.last_generation:
                    self.books.book(left, self.resolver, time.time())
            else:
                self.books.last_generation = left.number
        self.source.clear(left)

    def _run(self) -> None:
        following = time.monotonic()
        pause = self.settings.poll_s
        while not self._stop.is_set():
            try:
                pause = next_pause(pause, self.source.ring.fill(), self.settings.poll_s)
                self.poll_events()
                if time.monotonic() >= following or self._hurry.is_set():
                    self._hurry.clear()
                    self.drain()
                    following = max(following + self.settings.interval_s, time.monotonic())
                    self._govern()
            except (SidelightError, OSError) as error:
                if self.failed != str(error):
                    log.error("pipeline: %s", error)
                self.failed = str(error)
                self._stop.wait(1.0)
            self._hurry.wait(pause)
        try:
            self.poll_events()
            self.drain()
        except (SidelightError, OSError) as error:
            log.error("last drain: %s", error)
        self._release_held(all_of_them=True)  # behind the drain, which reads events too

    def poll_events(self) -> int:
        """Reads, names and publishes the events that wait. Returns how many."""
        self.tree.follow()
        if self._held:
            self._release_held()
        records = self.source.ring.read()
        if not records:
            return 0
        batch = decode.decode(records)
        with self._lock:
            self._read += len(records) - batch.announced
            self._malformed += batch.malformed
            self.books.learn(batch.operations)
            known = self.resolver.version  # before: what is heard meanwhile is a reason to look again
            flows = attribute.attribute(
                batch, self.resolver, self.learner, decode.clock_offset_ns(), self.conntrack, self.books.operations
            )
            self._publish(flows, known, time.monotonic() + HOLD_FLOWS_S)
        return len(records)

    def _publish(self, flows: FlowBatch, known: tuple[int, int], deadline: float) -> None:
        """Puts flows into the ring; until the deadline those that may soon be named better wait. Called with the lock.

        `known`: the resolver's version by which they were named.
        """
        now = time.monotonic()
        if self.index is not None and now < deadline and len(self._held) < HELD_BATCHES:
            waits = attribute.pending(flows, self.index, time.time())
            if waits.any():
                look_at = min(now + attribute.SETTLE_S, deadline)
                self._held.append(_Held(look_at, deadline, known, select(flows, waits)))
                flows = select(flows, ~waits)
        self.flows.append(flows)
        if not self.first_flow_s and len(flows):
            self.first_flow_s = now - self._began

    def _release_held(self, *, all_of_them: bool = False) -> None:
        """Names the flows that have waited anew if there was news; publishes those that are settled or have waited long enough."""
        with self._lock:
            waiting, self._held = self._held, deque()
            for held in waiting:
                if not all_of_them and time.monotonic() < held.look_at:
                    self._held.append(held)
                    continue
                flows, known = held.flows, self.resolver.version
                if self.conntrack or known != held.known:
                    flows = attribute.rename(flows, self.resolver, self.conntrack)
                self._publish(flows, known, 0.0 if all_of_them else held.deadline)

    def drain(self) -> None:
        """Moves one generation from the kernel to the books. Raises SidelightError when the programs have been taken off."""
        self.source.check_attached()
        self._drains_begun += 1
        generation = self.source.drain()
        self.poll_events()  # what this generation's DNS answers teach is to name its figures
        with self._lock:
            self.books.book(generation, self.resolver, time.time())
        self.source.clear(generation)
        self._make_room(generation)
        self._drains = self._drains_begun
        self.failed = ""
        self.ready.set()

    def _make_room(self, generation: Generation) -> None:
        """Operations that have been quiet for long give their places to others, once these get scarce."""
        now = time.time()
        self._ages.note(generation.latency_keys["operation"], now)
        if now - self._swept_at > SWEEP_S:
            self._swept_at = now
            self.source.sweep_streams()
        if self._ages.due(now):
            quiet = self._ages.quiet(self.source.operations(), now)
            if quiet:
                self.source.forget_operations(quiet)
                with self._lock:
                    self.books.retire(quiet)

    def drain_now(self) -> None:
        """Has the pipeline drain at once and waits for it (audits, tests)."""
        wanted = self._drains_begun + 1  # one that goes on has read its figures already
        self._hurry.set()
        deadline = time.monotonic() + 10.0
        while self._drains < wanted and time.monotonic() < deadline:
            time.sleep(0.005)

    def reconfigure(self, capture: CaptureSettings) -> None:
        """Puts other capture settings in force, within what the governor allows."""
        self.settings = replace(self.settings, capture=capture)
        self.source.configure(settings_record(self.governor.level.apply(capture)))

    def explain(self, address: bytes, port: int, at: float) -> dict[str, Any]:
        """How an address is, or was, named."""
        with self._lock:
            return self.resolver.explain(address, port, at)

    def closeup(self, target: Target, *, fresh: bool = False) -> dict[str, Any]:
        """A workload's totals by pod since it was first asked for. `fresh`: with what the kernel has now.

        Raises ValueError when too many are open.
        """
        if fresh:
            self.drain_now()
        with self._lock:
            now = time.time()
            found, opened = self.books.closeups.ask(target, now)
            if opened:
                found.remember(self.books.latencies, self.books.operations)
            document = found.document()
        known = self.index.pods_of(target.namespace) if self.index else []
        return document | {
            "at": now,
            "node": self.settings.node,
            "lost": self.source.counters()["lost_exchanges"],
            "known": [described(identity) | {"since": born} for identity, born in known if target.has(identity)],
        }

    def _govern(self) -> None:
        level = self.governor.judge(time.monotonic(), _cpu_seconds() + self._kernel_seconds(), _rss_bytes())
        if level is not None:
            log.warning("governor: %s", level.name.lower().replace("_", " "))
            self.source.configure(settings_record(level.apply(self.settings.capture)))

    def _kernel_seconds(self) -> float:
        if not self.governor.cpu_budget:
            return 0.0
        return sum(cost.run_time_ns for cost in self.source.costs()) / 1e9

    # -- for readers ---------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The figures now. Copies under the lock, so it costs the pipeline a memcpy at most."""
        kernel = self.source.counters()
        active = self.source.active_calls() if kernel["seen_http2"] else {}
        with self._lock:
            return Snapshot(
                at=time.time(),
                started_at=self.started_at,
                generation=self.books.last_generation,
                edges=_copy(self.books.edges),
                latencies=_copy(self.books.latencies),
                kernel=kernel,
                costs=self.source.costs(),
                events_read=self._read,
                active_calls=self.books.by_name(active, self.resolver, time.time()),
                flows_seen=self.flows.seen,
                flows_held=sum(len(held.flows) for held in self._held),
                ring_bytes=self.flows.bytes,
                malformed_events=self._malformed,
                malformed_payloads=self.learner.malformed,
                resolutions=dict(self.resolver.resolutions),
                unresolved=dict(self.resolver.unresolved),
                edge_fill=self.source.fill_edges / self.source.edge_capacity,
                latency_fill=self.source.fill_latencies / self.source.latency_capacity,
                event_fill=self.source.ring.fill(),
                names=len(self.resolver.names),
                operations=dict(self.books.operations),
                level=int(self.governor.level),
                cpu_seconds=_cpu_seconds(),
                rss_bytes=_rss_bytes(),
                load=self.load,
                staleness_s=float(getattr(self.index, "staleness_s", 0.0)),
                extra={name: float(value) for name, value in self.exports.items()},
            )


def _copy(table: Table) -> Table:
    copy = Table(table.dtype)
    copy.keys = list(table.keys)
    copy.rows = {}
    copy.values = table.values[: len(table)].copy()
    copy.changed_at = table.changed_at[: len(table)].copy()
    copy.created_at = table.created_at[: len(table)].copy()
    return copy


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _rss_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


__all__ = ["Agent", "Level", "Snapshot", "settings_record"]
