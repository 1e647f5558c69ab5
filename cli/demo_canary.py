"""`sidelight demo --canary WAY`: the test cluster's catalogue gets a second version that is worse in one way, or in none; verify says so."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from sidelight.agent.errors import SidelightError
from sidelight.analysis.comparison import Settings
from sidelight.analysis.verdict import ONE_POD
from sidelight.cli.client import Client
from sidelight.cli.demo_cluster import REPOSITORY, observed_cluster
from sidelight.cli.verify import agents
from sidelight.cli.verify_screen import Screen, print_verdict
from sidelight.exporter.verify.arms import arms_of
from sidelight.exporter.verify.trial import Trial

WAYS: dict[str, tuple[list[dict[str, float]], str]] = {
    "errors": ([{"errors": 0.05}] * 3, "fail"),
    "tail": ([{"slow": 0.06, "slow_s": 0.25}] * 3, "fail"),
    "resets": ([{"resets": 0.04}] * 3, "fail"),
    "bad-pod": ([{}, {"errors": 0.3}, {}], "inconclusive"),
    "nothing": ([{}] * 3, "pass"),
}
"""What each of the canary's pods does, and what is to be said of it."""
LOAD = REPOSITORY / "tests" / "cluster" / "canary_load.py"
RATE = 240.0
UP_TO_S = 150.0
LONE_S = 40.0
"""A canary that is bad by one pod stays inconclusive: after so long it is said."""


def run(way: str, output: str) -> None:
    """Raises SidelightError when the verdict, or a count beside the servers' own, is not what it has to be."""
    with observed_cluster("canary") as place:
        found = place.found
        servers = deploy(found, WAYS[way][0], place.scratch)
        time.sleep(1.0)
        trial = _trial(place.client)
        trial.start()  # before the first request: what is compared is all there is
        load = found.python(servers["load"], LOAD, "10.96.0.12", 80, RATE, UP_TO_S)
        _follow(trial)
        found.processes.stop(load)
        time.sleep(1.0)
        verdict = trial.look(last=True)
        document = trial.document()
        if output == "json":
            click.echo(json.dumps(document))
        else:
            print_verdict(document, verdict)
        theirs = own_counts(found, servers, place.scratch)
    ours = {"baseline": verdict.n_baseline, "canary": verdict.n_canary}
    click.echo(f"\n{'version':10} {'its servers counted':>20} {'compared':>10}", err=output == "json")
    for arm, count in theirs.items():
        mark = "exact" if ours[arm] == count else "DIFFERS"
        click.echo(f"{arm:10} {count:20,} {ours[arm]:10,}  {mark}", err=output == "json")
    wanted = WAYS[way][1]
    if verdict.verdict != wanted or ours != theirs:
        raise SidelightError(
            f"the demo's verdict is {verdict.verdict}, where {wanted} was due, or its counts do not agree"
        )


def deploy(
    found: Any, canary: list[dict[str, float]], scratch: Path, baseline: tuple[dict[str, float], ...] = ({}, {})
) -> dict[str, Any]:
    """A pod of v1 and of v2 for each behaviour, a service over all of them, and a pod that asks. On all nodes by turns."""
    pods: dict[str, Any] = {}
    for number, behaviour in enumerate([*baseline, *canary]):
        version = "v1" if number < len(baseline) else "v2"
        name = f"{version}-{number}"
        node = 1 + number % found.node_count
        pods[name] = found.pod("shop", "catalogue", version=version, node=node)
        counts = scratch / f"{name}.json"
        found.python(pods[name], REPOSITORY / "tests/cluster/canary_server.py", 8080, json.dumps(behaviour), counts)
    backends = list(pods.values())
    found.service("shop", "catalogue", "10.96.0.12", 80, backends, 8080)
    pods["load"] = found.pod("load", "generator")
    return pods


def own_counts(found: Any, servers: dict[str, Any], scratch: Path) -> dict[str, int]:
    """Requests that each version's servers say they had. Ends them."""
    found.processes.stop_all()
    sums = {"baseline": 0, "canary": 0}
    for name in servers:
        if name != "load":
            counts = json.loads((scratch / f"{name}.json").read_text())
            sums["baseline" if name.startswith("v1") else "canary"] += (
                sum(counts["answered"].values()) + counts["reset"]
            )
    return sums


def _trial(client: Client) -> Trial:
    arms = arms_of("shop/catalogue", "version=v1", "version=v2")
    settings = Settings(interval_s=2.0, warm_up_s=0.0)
    return Trial(arms, agents(client, arms, settings), settings, time.time)


def _follow(trial: Trial) -> Any:
    """Until the verdict, or until it is clear that it is one pod."""
    began = time.monotonic()
    with Screen(trial, live=True, keep=False) as screen:
        while True:
            time.sleep(trial.settings.interval_s)
            verdict = trial.look()
            screen.show(verdict)
            one_pod = any(ONE_POD in reason for metric in verdict.metrics for reason in metric.reasons)
            waited = time.monotonic() - began
            if trial.ended or waited > UP_TO_S or (one_pod and waited > LONE_S):
                return verdict
