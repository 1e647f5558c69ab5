"""Faults, one a row: what is done to an agent under load, and what it says afterwards. Whatever it is, the counters that are kept are
exact, what is lost is counted, and it recovers or says why not."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidelight.agent import bpf, layout
from sidelight.agent.loader import DEFAULT_BPFFS
from sidelight.cli.demo import free_port
from tests.end_to_end.test_servers import accepts, nginx, saturated, served, steady, wrk
from tests.observed import eventually
from tests.running import Running, cpu_seconds, rss_mb, running

PEERS = Path(__file__).resolve().parents[1] / "peers"


def pid_of(agent: Running) -> int:
    assert agent.process
    return agent.process.pid


def stopped(agent: Running) -> None:
    """SIGSTOP: nobody reads; the ring fills, the maps count."""
    os.kill(pid_of(agent), signal.SIGSTOP)
    time.sleep(30)
    os.kill(pid_of(agent), signal.SIGCONT)


def starved(agent: Running) -> None:
    """The lowest priority, beside a load that wants both cores."""
    os.sched_setscheduler(pid_of(agent), os.SCHED_IDLE, os.sched_param(0))
    time.sleep(6)
    os.sched_setscheduler(pid_of(agent), os.SCHED_OTHER, os.sched_param(0))


def without_descriptors(agent: Running) -> None:
    """Not one more file or socket for three seconds."""
    before = resource.prlimit(pid_of(agent), resource.RLIMIT_NOFILE)
    in_use = len(list(Path(f"/proc/{pid_of(agent)}/fd").iterdir()))
    resource.prlimit(pid_of(agent), resource.RLIMIT_NOFILE, (in_use, before[1]))
    time.sleep(3)
    resource.prlimit(pid_of(agent), resource.RLIMIT_NOFILE, before)


def killed_in_its_first_second(agent: Running) -> None:
    for delay in (0.0, 0.2, 0.5, 0.9):
        agent.kill(9)
        agent.start(wait=False)
        time.sleep(delay)
    agent.kill(9)
    agent.start()


FAULTS: dict[str, tuple[Callable[[Running], None], tuple[str, ...]]] = {
    "SIGSTOP for 30 s": (stopped, ()),
    "CPU starvation": (starved, ()),
    "no file descriptors": (without_descriptors, ()),
    "kills while it starts": (killed_in_its_first_second, ()),
    "a ring of one page": (lambda agent: time.sleep(3), ("--ring-pages", "1", "--event-rate", "100000")),
    "maps of sixteen entries": (lambda agent: time.sleep(3), ("--max-edges", "16")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_counters_are_exact_and_losses_counted(fault: str, tmp_path: Path) -> None:
    inflict, arguments = FAULTS[fault]
    with running(*arguments) as agent:
        port = nginx(agent.processes, tmp_path)
        with saturated(agent, port, 2):
            inflict(agent)
        theirs = served(agent, "destination")
        audit = agent.audit()
        assert audit["holds"], audit
        ring = agent.total("sidelight_lost_total", reason="event_ring_full")
        print(f"\n{fault}: {theirs:.0f} requests, events lost to a full ring {ring:.0f}, suppressed {agent.total('sidelight_lost_total', reason='event_suppressed'):.0f}")  # fmt: skip
        if fault == "a ring of one page":
            assert ring > 0


def test_thousands_of_short_connections_a_second(tmp_path: Path) -> None:
    """A connection a request, as fast as nginx accepts them: every one of them is opened and closed in the books, at both ends."""
    with running() as agent:
        port = nginx(agent.processes, tmp_path)
        steady(agent)
        theirs, ours = accepts(port), agent.total("sidelight_tcp_connections_opened_total", reporter="destination")
        requests = wrk(agent, 4, f"http://127.0.0.1:{port}/static", "-H", "Connection: close", connections=64)
        steady(agent)
        accepted = accepts(port) - theirs
        assert accepted > 4 * 2000 and accepted >= requests
        eventually(
            lambda: agent.total("sidelight_tcp_connections_opened_total", reporter="destination") - ours == accepted,
            20, "every accepted connection is counted",
        )  # fmt: skip
        audit = agent.audit()
        assert audit["holds"], audit
        print(f"\n{accepted / 4:.0f} connections a second, events suppressed {agent.total('sidelight_lost_total', reason='event_suppressed'):.0f}")  # fmt: skip


IDLE_CONNECTIONS = 100_000


def test_a_hundred_thousand_idle_connections(tmp_path: Path) -> None:
    """Opened, silent, closed: exact, and no work for the agent between."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    each = min(17_000, hard - 200)
    pairs = -(-IDLE_CONNECTIONS // each)
    with running("--event-rate", "100") as agent:
        holders = []
        for number in range(pairs):
            port = free_port()
            for role in ("listen", "connect"):
                command = [sys.executable, "-I", str(PEERS / "holder.py"), role, str(port), str(each)]
                holder = agent.processes.start(f"{role}{number}", command, stdout=subprocess.PIPE)
                assert holder.stdout
                if role == "listen":
                    holder.stdout.readline()
                holders.append(holder)
        for holder in holders:
            assert holder.stdout and holder.stdout.readline() == b"held\n"

        def opened(reporter: str) -> float:
            return agent.total("sidelight_tcp_connections_opened_total", reporter=reporter)

        for reporter in ("source", "destination"):
            eventually(
                lambda r=reporter: opened(r) == pairs * each, 30, lambda r=reporter: f"all counted: {r} {opened(r)}"
            )  # type: ignore[misc]
        before, memory = cpu_seconds(pid_of(agent)), rss_mb(pid_of(agent))
        time.sleep(3)
        idle = (cpu_seconds(pid_of(agent)) - before) / 3
        print(f"\n{pairs * each} idle connections: agent {idle * 100:.1f} % of a core, {memory:.0f} MB")
        for holder in holders:
            agent.processes.stop(holder)
        eventually(
            lambda: agent.total("sidelight_tcp_connections_closed_total") == 2 * pairs * each, 60, "all of them closed"
        )
        audit = agent.audit()
        assert audit["holds"], audit


def test_a_clock_that_steps(tmp_path: Path) -> None:
    """Durations are the monotonic clock's: a step of the wall clock changes times of flows, not latencies. In a time of our own: faked
    by the agent's view alone, since the machine's clock is not ours."""
    from sidelight.agent import decode

    before = decode.clock_offset_ns()
    real = time.time_ns
    try:
        time.time_ns = lambda: real() - 3_600_000_000_000  # type: ignore[assignment]
        assert abs(decode.clock_offset_ns() - before + 3_600_000_000_000) < 50_000_000
    finally:
        time.time_ns = real


def test_the_bpf_file_system_unmounted(tmp_path: Path) -> None:
    """Its own, so that nobody else's goes: pins and links go with it. The agent says so, is not ready, and a restart heals it."""
    place = tmp_path / "bpf"
    place.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(place)], check=True)
    agent = Running("--bpffs", str(place))
    try:
        agent.start()
        subprocess.run(["umount", "-l", str(place)], check=True)
        eventually(lambda: not agent.answers(), 10, "not ready any more")
        assert b"sidelight_build_info" in agent.get("/metrics"), "it serves what it knows"
        assert "gone" in agent.log.read_text()
        subprocess.run(["mount", "-t", "bpf", "bpf", str(place)], check=True)
        agent.kill(15)
        agent.start()
        assert agent.answers()
    finally:
        if agent.process and agent.process.poll() is None:
            agent.kill(15)
        subprocess.run(["umount", "-l", str(place)], check=False)
        agent.close()


def test_the_observed_cgroup_removed(tmp_path: Path) -> None:
    """Nothing is left to observe; what was seen stays, and nothing crashes."""
    with running() as agent:
        inner = agent.cgroup / "inner"
        inner.mkdir()
        second = Running(observed=inner)
        try:
            second.start()
            second.processes = agent.processes
            agent.processes.start("inner", ["curl", "-s", "http://127.0.0.1:1/"]).wait()
            eventually(lambda: second.total("sidelight_tcp_connections_failed_total") == 1)
            eventually(lambda: inner.rmdir() is None or True, 5)
            time.sleep(1.5)
            assert second.total("sidelight_tcp_connections_failed_total") == 1
            assert not second.broken_laws()
        finally:
            second.close()


def test_an_audit_finds_an_injected_hole() -> None:
    with running() as agent:
        agent.processes.start("curl", ["curl", "-s", "http://127.0.0.1:1/"]).wait()
        eventually(lambda: agent.total("sidelight_tcp_connections_failed_total") == 1)
        assert agent.cli("audit").returncode == 0
        pins = next((DEFAULT_BPFFS / "sidelight" / agent.instance).glob("maps-*"))
        counters = bpf.open_pin(pins / "counters")
        names = [counter.name for counter in layout.counters()]
        number = names.index("seen_failed")
        cpus = bpf.possible_cpus()
        key = struct.pack("<I", number)
        try:
            size = bpf.map_info(counters).value_bytes
            if size == 8:
                values = list(struct.unpack(f"<{cpus}Q", bpf.lookup(counters, key, 8 * cpus) or b""))
                values[0] += 3
                bpf.update(counters, key, struct.pack(f"<{cpus}Q", *values))
            else:
                key = struct.pack("<I", 0)
                stride = (size + 7) & ~7
                raw = bytearray(bpf.lookup(counters, key, stride * cpus) or b"")
                at = number * 8
                raw[at : at + 8] = struct.pack("<Q", struct.unpack_from("<Q", raw, at)[0] + 3)
                bpf.update(counters, key, bytes(raw))
        finally:
            os.close(counters)
        found = agent.cli("audit")
        assert found.returncode == 1
        (broken,) = [line for line in found.stdout.splitlines() if "BROKEN" in line]
        assert broken.startswith("attempts failed") and broken.endswith("BROKEN by 3")


def test_the_governor_sheds_in_order_and_connection_counters_stay_exact(tmp_path: Path) -> None:
    """A memory budget that cannot be met: events, heads, HTTP go, step by step, said in metrics, log and status."""
    with running("--memory-budget", "10", "--interval", "0.1") as agent:
        port = nginx(agent.processes, tmp_path)
        eventually(lambda: agent.total("sidelight_shed_level") == 3, 20)
        before = agent.total(
            "sidelight_tcp_connections_opened_total", reporter="destination", destination_workload="nginx"
        )
        requests = agent.total("sidelight_seen_total", item="requests")
        asked = 400
        script = f"for i in $(seq {asked}); do curl -s -o /dev/null http://127.0.0.1:{port}/static; done"
        agent.processes.start("curl", ["sh", "-c", script]).wait(120)
        eventually(lambda: agent.total("sidelight_tcp_connections_opened_total", reporter="destination", destination_workload="nginx") - before == asked)  # fmt: skip
        assert agent.total("sidelight_seen_total", item="requests") == requests, "HTTP is shed"
        assert governed(agent) == ["events shed", "heads shed", "l7 shed"]
        assert "l7 shed" in agent.cli("status").stdout
        assert not agent.broken_laws()


def test_the_governor_takes_detail_back(tmp_path: Path) -> None:
    """Over its CPU budget for as long as it names 20,000 events a second; when the load is over everything is counted again."""
    with running("--cpu-budget", "0.1", "--interval", "0.1", "--event-rate", "20000") as agent:
        port = nginx(agent.processes, tmp_path)
        wrk(agent, 4, f"http://127.0.0.1:{port}/static")
        assert "governor: events shed" in agent.log.read_text()
        # seldom: to answer costs the agent some of the same budget
        eventually(lambda: agent.total("sidelight_shed_level") == 0, 40, "restored", every_s=0.5)
        steady(agent)  # it may have been restored under the load already
        before, steps = served(agent, "destination"), governed(agent)
        script = f"for i in $(seq 50); do curl -s -o /dev/null http://127.0.0.1:{port}/static; done"
        agent.processes.start("curl", ["sh", "-c", script]).wait(60)
        steady(agent)
        assert governed(agent) == steps, "50 requests are no load"
        assert served(agent, "destination") - before == 50
        assert not agent.broken_laws()


def governed(agent: Running) -> list[str]:
    """The steps its log tells of."""
    return [line.partition("governor: ")[2] for line in agent.log.read_text().splitlines() if "governor: " in line]
