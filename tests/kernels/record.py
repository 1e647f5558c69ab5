"""What the verifier had to do on each kernel, against the record bpf/verified.json: a jump is a mistake, or a reason to write down.

`make test-kernels WRITE=1` and `python -m tests.kernel.test_verified` write it anew; say why in the commit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parents[2] / "bpf" / "verified.json"
LIMIT_INSTRUCTIONS, LIMIT_STACK = 1_000_000, 512
"""Of the kernels: BPF_COMPLEXITY_LIMIT_INSNS, MAX_BPF_STACK."""
BUDGET = 0.6
"""Share of them that a program may take: a kernel between the ones tried has room to be stricter."""

Programs = dict[str, dict[str, int]]


def version(release: str) -> str:
    """6.1.0-56-cloud-amd64 -> 6.1: by this kernels are recorded."""
    return ".".join(release.split("-")[0].split("+")[0].split(".")[:2])


def read() -> dict[str, Programs]:
    found: dict[str, Programs] = json.loads(RECORD.read_text())
    return found


def write(kernel: str, programs: Programs) -> None:
    records = read() | {kernel: dict(sorted(programs.items()))}
    ordered = dict(sorted(records.items(), key=lambda item: [int(part) for part in item[0].split(".")]))
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n")


def complaints(kernel: str, programs: Programs) -> list[str]:
    """What is over a budget, or more than the record says."""
    found = []
    for name, cost in programs.items():
        if cost["instructions"] > BUDGET * LIMIT_INSTRUCTIONS or not 0 < cost["stack_bytes"] <= LIMIT_STACK:
            found.append(f"{name} is over the budget: {cost}")
    record: Programs | None = read().get(kernel)
    if record is None:
        return found  # verifiers differ from version to version
    if programs.keys() != record.keys():
        found.append(f"not the programs of the record: {sorted(programs.keys() ^ record.keys())}")
    for name in programs.keys() & record.keys():
        cost, known = programs[name], record[name]
        if cost["instructions"] > 1.05 * known["instructions"] + 500 or cost["stack_bytes"] > known["stack_bytes"] + 16:
            found.append(f"{name} jumped: {cost}, the record has {known}")
    return found


def costs(verified: dict[str, int], stack: dict[str, int]) -> Any:
    return {name: {"instructions": count, "stack_bytes": stack[name]} for name, count in sorted(verified.items())}
