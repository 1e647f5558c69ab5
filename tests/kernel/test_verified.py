"""What the verifier had to do, against the record in bpf/verified.json: a jump is either a mistake or a reason to write down.

`python -m tests.kernel.test_verified` writes the record anew; say why in the commit.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from sidelight.agent.loader import LoadRequest, run_loader
from tests.observed import Observed, observed

RECORD = Path(__file__).resolve().parents[2] / "bpf" / "verified.json"
LIMIT_INSTRUCTIONS, LIMIT_STACK = 1_000_000, 512


def measured(watch: Observed) -> dict[str, Any]:
    report = run_loader(LoadRequest(str(watch.cgroup), watch.instance))
    kernel = ".".join(platform.release().split(".")[:2])
    programs = {name: {"instructions": count, "stack_bytes": report.stack[name]} for name, count in sorted(report.verified.items())}  # fmt: skip
    return {"kernel": kernel, "programs": programs}


def test_no_jump_without_a_reason(watch: Observed) -> None:
    now, record = measured(watch), json.loads(RECORD.read_text())
    assert now["programs"].keys() == record["programs"].keys()
    for name, cost in now["programs"].items():
        assert cost["instructions"] < 0.8 * LIMIT_INSTRUCTIONS and 0 < cost["stack_bytes"] <= LIMIT_STACK, (name, cost)
        if now["kernel"] == record["kernel"]:  # verifiers differ from version to version
            known = record["programs"][name]
            assert cost["instructions"] <= 1.05 * known["instructions"] + 500, (name, cost, known)
            assert cost["stack_bytes"] <= known["stack_bytes"] + 16, (name, cost, known)


if __name__ == "__main__":
    with observed() as found:
        RECORD.write_text(json.dumps(measured(found), indent=1) + "\n")
