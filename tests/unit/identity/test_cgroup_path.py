"""The shapes of cgroup paths that kubelets, engines and systemd make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidelight.identity.cgroup_path import parse_cgroup_path

UID = "0a1b2c3d-1111-2222-3333-444455556666"
ESCAPED = UID.replace("-", "_")
STATIC = "0123456789abcdef0123456789abcdef"
CONTAINER = "c0ffee" * 10 + "abcd"
OTHER = "d" * 64


@pytest.mark.parametrize(
    ("path", "pod", "container", "unit"),
    [
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{ESCAPED}.slice/cri-containerd-{CONTAINER}.scope", UID, CONTAINER, ""),
        (f"/kubepods.slice/kubepods-pod{ESCAPED}.slice/crio-{CONTAINER}.scope", UID, CONTAINER, ""),
        (f"/kubepods.slice/kubepods-pod{ESCAPED}.slice/crio-conmon-{CONTAINER}.scope", UID, "", ""),
        (f"/kubepods/besteffort/pod{UID}/{CONTAINER}", UID, CONTAINER, ""),
        (f"/kubepods/pod{STATIC}/{CONTAINER}", STATIC, CONTAINER, ""),
        (f"/kubepods/burstable/pod{UID}", UID, "", ""),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{ESCAPED}.slice/cri-containerd-{CONTAINER}.scope", UID, CONTAINER, ""),
        # a node in a container (kind): the innermost pod, not the engine's container around it
        (f"/docker/{OTHER}/kubelet/kubepods/pod{UID}/{CONTAINER}", UID, CONTAINER, ""),
        (f"/system.slice/docker-{CONTAINER}.scope", "", CONTAINER, ""),
        (f"/docker/{CONTAINER}", "", CONTAINER, ""),
        (f"/machine.slice/libpod-{CONTAINER}.scope/container", "", CONTAINER, ""),
        ("/system.slice/nginx.service", "", "", "nginx"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo.service", "", "", "app-foo"),
        (r"/system.slice/system-getty.slice/dev\x2ddisk.service", "", "", "dev-disk"),
        ("/system.slice", "", "", ""),
        ("/", "", "", ""),
    ],
)  # fmt: skip
def test_shapes(path: str, pod: str, container: str, unit: str) -> None:
    found = parse_cgroup_path(path)
    assert (found.pod_uid, found.container_id, found.unit) == (pod, container, unit)


@given(st.text(alphabet="/-_.podkubeslicontarsvx0123456789abcdef\\", max_size=300))
def test_any_path_gives_parts_of_bounded_size(path: str) -> None:
    found = parse_cgroup_path(path)
    assert len(found.pod_uid) in (0, 32, 36) and len(found.container_id) in (0, 64)
    assert not (found.unit and found.pod_uid)
