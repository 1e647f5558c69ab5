"""`sidelight doctor`: what this kernel and these privileges allow, what is missing, what to do."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from sidelight import __version__
from sidelight.agent import bpf
from sidelight.agent.compiler import CACHE, PREBUILT, prebuilt
from sidelight.agent.errors import BpfError, SidelightError, UnsupportedFeature
from sidelight.agent.loader import DEFAULT_BPFFS, LoadRequest, cgroup2_root, raise_memlock, run_loader, unload

CAPABILITIES = {12: "NET_ADMIN", 21: "SYS_ADMIN", 38: "PERFMON", 39: "BPF"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `state`: good, limited (works with less) or bad."""

    what: str
    state: str
    found: str
    do: str = ""


@click.command("doctor")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a support archive (tar.gz), without secrets.",
)
@click.option("--instance", default="default", show_default=True, metavar="NAME")
def doctor_command(output: str, bundle: Path | None, instance: str) -> None:
    """Look at kernel, mounts, privileges and libraries; try loading the programs on an empty cgroup. Status 1 if something is bad.

    \b
    Examples:
      sidelight doctor
      sidelight doctor --bundle /tmp/sidelight.tar.gz
    """
    findings = examine()
    if bundle is not None:
        _write_bundle(bundle, findings, instance)
    if output == "json":
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        colours = {"good": "green", "limited": "yellow", "bad": "red"}
        for finding in findings:
            click.echo(
                f"{click.style(finding.state.ljust(8), fg=colours[finding.state])} {finding.what}: {finding.found}"
            )
            if finding.do:
                click.echo(f"         -> {finding.do}")
    sys.exit(1 if any(finding.state == "bad" for finding in findings) else 0)


def examine() -> list[Finding]:
    """All findings; changes nothing, but for a cgroup that is there for the length of the trial."""
    findings = [Finding("kernel", "good", f"{platform.release()} {platform.machine()}")]
    findings += [
        _privileges(),
        _cgroup2(),
        _net_cls(),
        _bpffs(),
        _libbpf(),
        _memory(),
        _loops(),
        _programs(),
        _stats(),
        _proc(),
    ]
    if all(finding.state != "bad" for finding in findings):
        findings.append(_trial())
    return findings


def _privileges() -> Finding:
    effective = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    have = [name for number, name in CAPABILITIES.items() if effective >> number & 1]
    if {"BPF", "NET_ADMIN"} <= set(have):
        return Finding("privileges", "good", "CAP_" + ", CAP_".join(have))
    return Finding(
        "privileges",
        "bad",
        ", ".join(have) or "none that matter",
        "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
    )


def _cgroup2() -> Finding:
    try:
        return Finding("cgroup2", "good", str(cgroup2_root()))
    except UnsupportedFeature as error:
        return Finding("cgroup2", "bad", "not mounted", str(error).partition(": ")[2])


def _net_cls() -> Finding:
    """Kernels before 5.15 lose the v2 cgroup of sockets once net_cls or net_prio is in use."""
    mounts = Path("/proc/self/mounts").read_text()
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    used = [name for name in ("net_cls", "net_prio") if f",{name}" in mounts or f" {name}" in mounts]
    if used and version < (5, 15):
        return Finding(
            "cgroup v1",
            "bad",
            f"{', '.join(used)} mounted on a kernel before 5.15: sockets lose their cgroup",
            "do not use net_cls and net_prio, or a newer kernel",
        )
    return Finding("cgroup v1", "good", "no net_cls or net_prio in the way")


def _bpffs() -> Finding:
    if bpf.filesystem_magic(DEFAULT_BPFFS) == bpf.BPF_FS_MAGIC:
        return Finding("bpffs", "good", str(DEFAULT_BPFFS))
    return Finding("bpffs", "bad", f"not mounted at {DEFAULT_BPFFS}", f"mount -t bpf bpf {DEFAULT_BPFFS}")


def _libbpf() -> Finding:
    import ctypes

    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return Finding("libbpf", "bad", "libbpf.so.1 is missing", "apt-get install libbpf1")
    return Finding("libbpf", "good", "libbpf.so.1")


def _memory() -> Finding:
    """Kernels before 5.11 count maps as locked memory."""
    try:
        raise_memlock()
        counted = bpf.counts_memlock()
    except UnsupportedFeature as error:
        return Finding("locked memory", "bad", *str(error).split(": ", 1))
    except SidelightError as error:
        return Finding("locked memory", "limited", f"cannot be asked for: {error}")
    if counted:
        return Finding("locked memory", "good", "this kernel counts maps as such; the limit may be raised")
    return Finding("locked memory", "good", "maps do not count as such on this kernel")


def _loops() -> Finding:
    """Kernels before 5.17 have no bpf_loop, without which HTTP/2 is not followed."""
    try:
        if bpf.has_loop():
            return Finding("HTTP/2 and gRPC", "good", "this kernel has bpf_loop")
    except UnsupportedFeature as error:
        return Finding("HTTP/2 and gRPC", "limited", str(error))
    return Finding(
        "HTTP/2 and gRPC",
        "limited",
        "no bpf_loop on this kernel: their connections are counted, their calls are not",
        "a kernel from 5.17 on",
    )


def _programs() -> Finding:
    for path in (PREBUILT, CACHE):
        if prebuilt(path):
            return Finding("programs", "good", f"compiled: {path}")
    if importlib.util.find_spec("bcc"):
        return Finding("programs", "good", "to be compiled by BCC on the first start (two seconds)")
    return Finding(
        "programs",
        "bad",
        "neither prebuilt programs nor BCC",
        "apt-get install python3-bpfcc, or `sidelight compile` elsewhere",
    )


def _stats() -> Finding:
    try:
        on = Path("/proc/sys/kernel/bpf_stats_enabled").read_text().strip() == "1"
    except OSError:
        on = False
    if on:
        return Finding("run time", "good", "the kernel measures what the programs cost")
    return Finding(
        "run time",
        "limited",
        "not measured: no BPF run time in metrics",
        "sysctl kernel.bpf_stats_enabled=1 (costs about 20 ns a run)",
    )


def _proc() -> Finding:
    if os.getpid() == 1 or not Path("/proc/1/comm").exists():
        return Finding(
            "processes",
            "limited",
            "this pid namespace does not show the host's processes: what is in no unit, container or pod gets its cgroup's name",
        )
    return Finding("processes", "good", "names of processes can be read from /proc")


def _trial() -> Finding:
    """Compiles, verifies, attaches and removes, on a cgroup that nobody is in."""
    cgroup = cgroup2_root() / f"sidelight-doctor-{os.getpid()}"
    instance = f"doctor-{os.getpid()}"
    try:
        cgroup.mkdir()
    except OSError as error:
        return Finding("trial", "limited", f"cannot make a cgroup to try on: {error.strerror}")
    try:
        report = run_loader(LoadRequest(str(cgroup), instance))
    except SidelightError as error:
        return Finding("trial", "bad", str(error))
    finally:
        with contextlib.suppress(BpfError, OSError):
            unload(instance)
        cgroup.rmdir()
    most = max(report.verified.values(), default=0)
    return Finding(
        "trial",
        "good",
        f"all {len(report.verified)} programs verified (at most {most} instructions walked) and attached",
    )


def _write_bundle(path: Path, findings: list[Finding], instance: str) -> None:
    """Findings, the agent's status and audit, versions. No environment, no configuration values, no flows, no credentials."""
    import tarfile

    from sidelight.cli.client import connect

    documents: dict[str, object] = {
        "findings.json": [asdict(finding) for finding in findings],
        "versions.json": {"sidelight": __version__, "python": platform.python_version(), "kernel": platform.release()},
    }
    try:
        with connect({"instance": instance, "socket_path": None}, own_agent=False) as client:
            documents["status.json"] = client.query("status")
            documents["audit.json"] = client.query("audit")
    except SidelightError as error:
        documents["agent.json"] = {"error": str(error)}
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(path, "w:gz") as archive:
        for name, document in documents.items():
            file = Path(scratch) / name
            file.write_text(json.dumps(document, indent=2))
            archive.add(file, f"sidelight/{name}")
    click.echo(f"wrote {path}: {', '.join(documents)}", err=True)
