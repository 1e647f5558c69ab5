"""What a cgroup's path says: systemd unit, container, Kubernetes pod. Pure functions over strings.

Shapes (sources: kubelet's cgroup drivers, containerd, CRI-O, Docker, systemd.unit(5)):

    systemd driver  kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope
    cgroupfs driver kubepods/burstable/pod<uid>/<id>
    nested (kind)   kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<uid>.slice/cri-containerd-<id>.scope
    CRI-O           crio-<id>.scope, crio-conmon-<id>.scope
    Docker          docker-<id>.scope, docker/<id>
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_POD = re.compile(
    r"(?:^|[-/])pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?:/|$)"
)
_CONTAINER = re.compile(r"(?:^|[-:/])([0-9a-f]{64})(?:\.scope)?(?:/|$)")
_CONMON = re.compile(r"(?:crio|libpod)-conmon-")
_UNIT = re.compile(r"^(.+)\.(service|scope|socket|mount|swap)$")
_HEX_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class CgroupPath:
    """The parts of a path that name something; empty when absent."""

    path: str
    pod_uid: str = ""
    container_id: str = ""
    unit: str = ""


def parse_cgroup_path(path: str) -> CgroupPath:
    """Reads a path below the cgroup2 root, with or without a leading slash."""
    path = path.strip("/")
    pods = list(_POD.finditer(path))
    if pods:
        pod = pods[-1]  # nested clusters: the innermost pod is the one whose processes these are
        uid = pod[1].replace("_", "-")
        rest = path[pod.end() - 1 :]
        container = _CONTAINER.search(rest)
        conmon = _CONMON.search(rest)
        return CgroupPath(path, uid, container[1] if container and not conmon else "")
    containers = list(_CONTAINER.finditer(path))
    if containers:
        return CgroupPath(path, "", containers[-1][1])
    return CgroupPath(path, unit=_unit(path))


def _unit(path: str) -> str:
    """The systemd unit a path belongs to: the innermost service or scope, without its suffix."""
    for part in reversed(path.split("/")):
        match = _UNIT.match(part)
        if match and match[2] in ("service", "scope"):
            return _HEX_ESCAPE.sub(lambda m: chr(int(m[1], 16)), match[1])
    return ""
