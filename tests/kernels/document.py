"""docs/kernels.md, from what the guests said last (docs/kernels.json): `make test-kernels WRITE=1` writes both."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.kernels import record
from tests.kernels.boot import Run
from tests.kernels.guests import GUESTS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"
KEPT = DOCUMENT.with_suffix(".json")
COMPARISON = DOCUMENT.with_name("comparison.md")
BEGIN, END = "<!-- written by tests/kernels -->", "<!-- to here -->"
PARTS = {
    "load": "all programs load, within the verifier's budget",
    "counts": "nginx's own count at saturation, kept connections and new ones, 1 MB files, over kill -9",
    "exact": "HTTP with routes, one request at a time, exact beside nginx's count, over kill -9",
    "corpus": "the HTTP corpus over IPv4 and IPv6, and with 5 % of segments dropped",
    "stores": "Redis and memcached beside the servers' own counts: redis-benchmark pipelined by 16, nested answers, transactions, subscriptions, silence, meta commands",
    "http2": "HTTP/2 and gRPC: conversations of which every frame is known, joined in the middle, with 5 % of segments dropped; gRPC's interop cases; h2load beside nginx",
    "life": "TCP's life: outcomes, reasons, bytes, adoption; one-page ring and maps of sixteen; loading twice, refusals, little locked memory",
    "shop": "`sidelight demo`, and the shop of a test cluster by every name",
    "privileges": "the image with the manifest's privileges taken away one by one",
    "observers": "beside BCC's tcplife, tcptracer, tcpconnect and tcpretrans",
}
DIFFERENCES = (
    (
        "before 5.11",
        "maps count as locked memory: CAP_SYS_RESOURCE, or a limit of 128 MB (`security.sysResourceForOldKernels`)",
    ),
    (
        "before 5.17",
        'no `bpf_loop`: HTTP/2 and gRPC are counted as connections, not as calls; `sidelight doctor` and `sidelight_lost_total{reason="http2_not_followed"}` say so',
    ),
    ("before 5.15", "net_cls or net_prio in use take a socket's v2 cgroup away: `sidelight doctor` says so"),
)
EXPECTED = (
    ("RHEL 8 and clones", "4.18, with backports", "not expected: no ring buffer before 8.4, no bpf_link on cgroups"),
    ("RHEL 9 and clones", "5.14, with backports", "expected, as between 5.10 and 6.1"),
    ("Ubuntu 20.04", "5.4; 5.15 as HWE", "5.15 expected; 5.4 not: no CAP_BPF, no ring buffer"),
    ("Ubuntu 22.04", "5.15; 6.5, 6.8 as HWE", "expected"),
    ("Ubuntu 24.04", "6.8; 6.11, 6.14 as HWE", "expected"),
    ("Debian 11, 12, 13", "5.10, 6.1, 6.12", "run: these kernels"),
    ("Amazon Linux 2", "5.10 (4.14 is refused)", "5.10 expected; with CAP_SYS_RESOURCE"),
    ("Amazon Linux 2023", "6.1, 6.12", "expected"),
    ("Bottlerocket", "5.15, 6.1, 6.12", "expected"),
    ("Flatcar", "6.6, 6.12", "expected"),
    ("Container-Optimized OS", "5.15, 6.1, 6.6, 6.12", "expected"),
)  # fmt: skip


def keep(runs: list[Run]) -> None:
    """Puts what ran beside what was kept, and writes the document."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for found in runs:
        entry = kept.setdefault(found.guest.name, {"parts": {}})
        entry["release"] = found.said["kernel"]["release"] if "kernel" in found.said else ""
        for part, (status, seconds) in found.parts.items():
            entry["parts"][part] = {"passed": status == 0, "seconds": round(seconds), "at": time.strftime("%Y-%m-%d")}
        if "observers" in found.said:
            entry["observers"] = found.said["observers"]
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    DOCUMENT.write_text(text(kept))
    for entry in kept.values():
        if "observers" in entry:
            before, _, rest = COMPARISON.read_text().partition(BEGIN)
            COMPARISON.write_text(
                before
                + BEGIN
                + "\n"
                + "\n".join(comparison(entry["release"], entry["observers"]))
                + "\n"
                + END
                + rest.partition(END)[2]
            )


def text(kept: dict[str, Any]) -> str:
    """The document."""
    names = [name for name in GUESTS if name in kept]
    lines = [
        "# Kernels",
        "",
        "Written by `make test-kernels WRITE=1`, which boots Debian's kernels in QEMU without acceleration and runs the tests in them, with cgroup v2 alone;",
        "`make test` runs all of them on the machine's own kernel. A cell is from a run; what has no run is called expected.",
        "",
        "| | " + " | ".join(f"{kept[name]['release']}" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for part, what in PARTS.items():
        cells = []
        for name in names:
            ran = kept[name]["parts"].get(part)
            wanted = part in GUESTS[name].parts
            cells.append(
                f"yes, {ran['seconds']} s"
                if ran and ran["passed"]
                else "**no**"
                if ran
                else "not run"
                if wanted
                else "-"
            )
        lines.append(f"| {what} (`--part {part}`) | " + " | ".join(cells) + " |")
    records = record.read()
    lines += [
        "",
        "## What the verifier had to do",
        "",
        f"Instructions walked and bytes of stack of each program, by kernel; the kernels allow {record.LIMIT_INSTRUCTIONS:,} and {record.LIMIT_STACK}, "
        f"our budget is {record.BUDGET:.0%} of the first, so that a kernel between these has room. `bpf/verified.json` is the record; a jump fails the tests.",
        "",
        "| program | " + " | ".join(records) + " |",
        "|---|" + "---|" * len(records),
    ]
    programs = sorted({program for found in records.values() for program in found})
    for program in programs:
        cells = [
            f"{found[program]['instructions']:,} / {found[program]['stack_bytes']}" if program in found else "-"
            for found in records.values()
        ]
        lines.append(f"| {program} | " + " | ".join(cells) + " |")
    most = {kernel: max(cost["instructions"] for cost in found.values()) for kernel, found in records.items()}
    lines += [
        "",
        "Room left in the largest program: "
        + ", ".join(f"{kernel} {1 - n / record.LIMIT_INSTRUCTIONS:.0%}" for kernel, n in most.items())
        + ".",
        "",
        "## What an older kernel lacks",
        "",
        "| kernel | what |",
        "|---|---|",
        *(f"| {which} | {what} |" for which, what in DIFFERENCES),
        "",
        "Capabilities: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN on every one of them, and CAP_SYS_RESOURCE before 5.11 (docs/privileges.md).",
        "",
        "## Distributions",
        "",
        "By the versions they ship; none of these has run but Debian's.",
        "",
        "| distribution | kernels | |",
        "|---|---|---|",
        *(f"| {name} | {versions} | {state} |" for name, versions, state in EXPECTED),
    ]
    return "\n".join(lines) + "\n"


def comparison(release: str, observers: dict[str, dict[str, Any]]) -> list[str]:
    """The table of what each observer saw."""
    columns = ["attempts", "opened at the client", "opened at the server", "refused", "reset", "lost", "named"]
    lines = [
        "## Other observers beside us",
        "",
        f"`python -m tests.kernels --kernel 6.1-amd64 --part observers`: 10,000 connections over loopback on {release}, of which 9,000 ask and close, "
        "500 end by a reset and 500 are refused. A dash: the tool does not tell.",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    lines += [
        f"| {name} | " + " | ".join(str(saw.get(column, "-")) for column in columns) + " |"
        for name, saw in observers.items()
    ]
    return lines
