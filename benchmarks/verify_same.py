"""Two equal versions on the test cluster, compared at every two seconds for ten minutes: no FAIL at any look.

Both fail one request in a hundred and are slow with two; three pods each on one node, real sockets, real programs, whatever else the machine
does. At the end the counts are compared with the servers' own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from sidelight.analysis.comparison import Settings
from sidelight.cli.demo_canary import LOAD, deploy, own_counts
from sidelight.cli.demo_cluster import observed_cluster
from sidelight.cli.verify import agents
from sidelight.exporter.verify.arms import arms_of
from sidelight.exporter.verify.trial import Trial

BOTH = ({"errors": 0.01, "slow": 0.02, "slow_s": 0.1},) * 3


def run(minutes: float = 10.0, rate: float = 150.0) -> dict[str, Any]:
    with observed_cluster("same") as place:
        found, scratch = place.found, place.scratch
        servers = deploy(found, list(BOTH), scratch, BOTH)
        time.sleep(1.0)
        arms = arms_of("shop/catalogue", "version=v1", "version=v2")
        judged = Settings(interval_s=2.0, warm_up_s=0.0, for_s=minutes * 60)
        trial = Trial(arms, agents(place.client, arms, judged), judged, time.time)
        trial.start()
        load = found.python(servers["load"], LOAD, "10.96.0.12", 80, rate, minutes * 60 + 30)
        said = _follow(trial)
        found.processes.stop(load)
        time.sleep(1.0)
        verdict = trial.look(last=True)
        theirs = own_counts(found, servers, scratch)
    return {
        "minutes": minutes,
        "looks": verdict.looks,
        "verdict at the end": verdict.verdict,
        "looks that said": said,
        "requests compared": f"{verdict.n_baseline} and {verdict.n_canary}",
        "the servers' own": f"{theirs['baseline']} and {theirs['canary']}",
        "metrics": {
            m.name: {
                "verdict": m.verdict, "baseline": f"{m.k_baseline} of {m.n_baseline}", "canary": f"{m.k_canary} of {m.n_canary}",
                "evidence of worse, log10": round(m.evidence_worse, 2), "dispersion": round(m.dispersion, 2),
            }
            for m in verdict.metrics
        },
    }  # fmt: skip


def _follow(trial: Trial) -> dict[str, int]:
    """How many looks said what."""
    said: dict[str, int] = {}
    while not trial.ended:
        time.sleep(trial.settings.interval_s)
        verdict = trial.look().verdict
        said[verdict] = said.get(verdict, 0) + 1
    return said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    print(json.dumps(run(parser.parse_args().minutes), indent=1))
    sys.exit(0)
