"""A node's agent over its life: fifty kills under load, the upgrade from another version and back, what is left of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

from sidelight.agent.loader import DEFAULT_BPFFS
from tests.end_to_end.test_servers import agrees, nginx, saturated, served, stub_status, wrk
from tests.running import Running, running

ROOT = Path(__file__).resolve().parents[2]
KILLS = 50


def test_fifty_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)
    with running() as agent:
        port = nginx(agent.processes, tmp_path)
        with saturated(agent, port, 3):
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.0, 0.6))
                agent.kill(9)
                # half of the time it is killed again while it starts
                agent.start(wait=chance.random() < 0.5)
        assert served(agent, "destination") > 100_000
        assert not agent.broken_laws()
        pins = DEFAULT_BPFFS / "sidelight" / agent.instance
        assert {path.name.partition("-")[0] for path in pins.iterdir()} == {"cgroup", "links", "maps", "programs"}
        assert len([path for path in pins.iterdir() if path.name.startswith("maps-")]) == 1
        instance, cgroup = agent.instance, agent.cgroup
    assert not (DEFAULT_BPFFS / "sidelight" / instance).exists() and not cgroup.exists()


def older(tmp_path: Path) -> Path:
    """The tree of the commit before this one (of this one, where there is no history)."""
    tree = tmp_path / "older"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tree)], check=True)
    subprocess.run(["git", "-C", str(tree), "checkout", "-q", "HEAD~1"], check=False, capture_output=True)
    return tree


def layout_of(tree: Path) -> str:
    code = "from sidelight.agent import layout; print(layout.layout_hash())"
    env = {**os.environ, "PYTHONPATH": str(tree / "src")}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd=tree).stdout.strip()  # fmt: skip


def test_upgrade_under_load_and_back(tmp_path: Path) -> None:
    """From the previous commit's build to this one and back, wrk at saturation all the time: every request once."""
    tree = older(tmp_path)
    same = layout_of(tree) == layout_of(ROOT)
    agent = Running()
    gaps = []
    try:
        agent.source = tree
        agent.start()
        port = nginx(agent.processes, tmp_path)
        load = threading.Thread(target=wrk, args=(agent, 12, f"http://127.0.0.1:{port}/static"))
        load.start()
        for source in (ROOT, tree, ROOT):
            time.sleep(2.0)
            agent.kill(15)
            began = time.monotonic()
            agent.source = source
            agent.start()
            gaps.append(time.monotonic() - began)
        load.join()
        theirs = stub_status(port)
        print(
            f"\nsame layout: {same}; seconds without an agent: {', '.join(f'{gap:.2f}' for gap in gaps)}; {theirs} requests"
        )
        if same:
            agrees(agent, port)
        else:
            # counting starts anew with another layout, and is said to
            assert "the layout of the kernel's maps changed" in agent.log.read_text()
        assert not agent.broken_laws()
    finally:
        agent.close()


def test_a_second_agent_says_so_and_stops() -> None:
    with running() as agent:
        command = [sys.executable, "-m", "sidelight.cli.main", "agent", "--cgroup", str(agent.cgroup), "--instance", agent.instance, "--metrics-listen", "off"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2 and "another agent" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_detach_on_exit_leaves_nothing(tmp_path: Path) -> None:
    agent = Running("--detach-on-exit")
    try:
        agent.start()
        assert (DEFAULT_BPFFS / "sidelight" / agent.instance).exists()
        agent.kill(15)
        assert not (DEFAULT_BPFFS / "sidelight" / agent.instance).exists()
    finally:
        agent.close()
