"""The image's root file system runs the manifest's own command with exactly the manifest's privileges; each one taken away fails as
docs/privileges.md says. No container engine: unshare, read-only bind mounts, chroot, setpriv and a compiled seccomp filter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidelight.agent.loader import cgroup2_root, unload
from sidelight.cli.demo import demo_cgroup, free_port
from tests.cluster.cluster import SHOP_SERVER, Cluster, cluster
from tests.end_to_end.test_kubernetes import ask, listening
from tests.helm.render import objects, render
from tests.image.rootfs import ROOT, Image, build
from tests.observed import eventually

SERVICE_ACCOUNT = "run/secrets/kubernetes.io/serviceaccount"
ENTER = """
set -e
mount --make-rprivate /
mount --bind {root} {root}
mkdir -p {root}/host/cgroup {root}/run/sidelight {root}/etc/sidelight {root}/{service_account}
mount -t sysfs -o ro sysfs {root}/sys
mount -t cgroup2 -o ro cgroup2 {root}/sys/fs/cgroup
{cgroup}
{bpffs}
mount -t proc proc {root}/proc
mount -t tmpfs tmpfs {root}/tmp
mount -t tmpfs tmpfs {root}/run/sidelight
mount --bind {account} {root}/{service_account}
mount --bind {config} {root}/etc/sidelight
mount -o remount,ro,bind {root}
exec /usr/sbin/chroot {root} /usr/bin/setpriv --bounding-set=-all{capabilities} --inh-caps=-all --no-new-privs /opt/sidelight/bin/python3 -c '{seccomp}' {filter} "$@"
"""
# loads a filter that libseccomp has compiled outside, then becomes the agent: prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER)
LOAD_FILTER = """
import ctypes, os, sys
if sys.argv[1]:
    code = bytes.fromhex(sys.argv[1])
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    program = Program(len(code) // 8, code)
    if ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
os.execv(sys.argv[2], sys.argv[2:])
"""


def compiled_filter(without: str = "") -> str:
    """daemonset/seccomp.json as a BPF program in hexadecimal, by libseccomp (Debian's python3-seccomp)."""
    code = """
import json, seccomp, sys, tempfile
profile = json.load(open(sys.argv[1]))
f = seccomp.SyscallFilter(seccomp.ERRNO(profile["defaultErrnoRet"]))
for name in profile["syscalls"][0]["names"]:
    if name != sys.argv[2]:
        try: f.add_rule(seccomp.ALLOW, name)
        except (RuntimeError, ValueError): pass  # unknown to this libseccomp or this machine
with tempfile.TemporaryFile() as out:
    f.export_bpf(out); out.seek(0); print(out.read().hex())
"""
    profile = ROOT / "daemonset" / "seccomp.json"
    return subprocess.run(["/usr/bin/python3", "-c", code, str(profile), without], capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if ready := os.environ.get("SIDELIGHT_IMAGE"):  # a guest has one on its disk (tests/kernels)
        return Image(Path(ready), 0, 0)
    subprocess.run(["make", "-s", "wheel"], cwd=ROOT, check=True, capture_output=True)
    return build(tmp_path_factory.mktemp("image") / "root")


@dataclass
class Container:
    """The manifest's container on this machine."""

    image: Image
    found: Cluster
    scratch: Path
    capabilities: list[str]
    port: int = field(default_factory=free_port)
    instance: str = field(default_factory=lambda: f"image-{os.getpid()}")
    process: subprocess.Popen[str] | None = None

    def start(
        self, *, cgroup: bool = True, bpffs: bool = True, seccomp: str | None = "", extra: tuple[str, ...] = ()
    ) -> None:
        account, config = self.scratch / "account", self.scratch / "config"
        account.mkdir(exist_ok=True)
        config.mkdir(exist_ok=True)
        (account / "token").write_text(self.found.api.token)
        (account / "ca.crt").write_bytes(self.found.api.certificate.read_bytes())
        daemonset = next(o for o in objects(render()) if o["kind"] == "DaemonSet")
        (config / "sidelight.yaml").write_text(
            next(o for o in objects(render()) if o["kind"] == "ConfigMap")["data"]["sidelight.yaml"]
        )
        agent = daemonset["spec"]["template"]["spec"]["containers"][0]
        root, inside = self.image.root, (self.found.cgroup / "node-1").relative_to(cgroup2_root())
        script = ENTER.format(
            root=root, account=account, config=config, service_account=SERVICE_ACCOUNT, seccomp=LOAD_FILTER, filter=compiled_filter(seccomp) if seccomp is not None else '""',
            cgroup=f"mount --bind {cgroup2_root()} {root}/host/cgroup && mount -o remount,ro,bind {root}/host/cgroup" if cgroup else "true",
            bpffs=f"mount --bind /sys/fs/bpf {root}/sys/fs/bpf" if bpffs else "true",
            capabilities="".join(f",+{name}" for name in self.capabilities),
        )  # fmt: skip
        # as it stands, but for what would touch more than this test: the root cgroup, the default instance, fixed ports
        changed = {
            "--cgroup=/host/cgroup": f"--cgroup=/host/cgroup/{inside}",
            "--metrics-listen=:9464": f"--metrics-listen=127.0.0.1:{self.port}",
            "--hubble-listen=:4244": f"--hubble-listen=127.0.0.1:{free_port()}",
        }
        arguments = [changed.get(argument, argument) for argument in agent["args"]]
        assert set(changed) <= set(agent["args"])
        env = {
            "PATH": "/opt/sidelight/bin:/usr/bin:/bin", "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.found.api.port),
            "NODE_NAME": "node-1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--cgroup", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", "/opt/sidelight/bin/sidelight", *arguments, f"--instance={self.instance}", "--interval=0.3", *extra],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ready(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.process.stdout.read() if self.process.stdout else ""
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1).status == 200
        return False

    def metrics(self) -> str:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5).read().decode()

    def refused(self) -> str:
        """What it says when it does not start; it must not take long and must not be a traceback."""
        assert self.process
        said = self.process.communicate(timeout=30)[0]
        assert self.process.returncode and "Traceback" not in said, said
        return said.strip().splitlines()[-1] if "\n" in said.strip() else said.strip()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
            self.process.wait()
        unload(self.instance)


@pytest.fixture
def container(image: Image, tmp_path: Path) -> Iterator[Container]:
    daemonset = next(o for o in objects(render()) if o["kind"] == "DaemonSet")
    context = daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    assert (
        context["capabilities"]["drop"] == ["ALL"] and context["readOnlyRootFilesystem"] and not context["privileged"]
    )
    names = [name.lower() for name in context["capabilities"]["add"]]
    with demo_cgroup(cgroup2_root()) as cgroup, cluster(cgroup, tmp_path) as found:
        made = Container(image, found, tmp_path, names)
        try:
            yield made
        finally:
            made.stop()


def test_the_manifests_command_with_the_manifests_privileges(container: Container) -> None:
    found = container.found
    web, client = found.pod("shop", "web"), found.pod("shop", "client")
    found.python(web, SHOP_SERVER, 8080, "{}", "/dev/null")
    listening(found, web, 8080)
    container.start()
    eventually(container.ready, 30, "ready")
    ask(found, client, f"{web.ip}:8080", 6)
    wanted = 'destination_workload="web"'

    def served() -> bool:
        rows = [line for line in container.metrics().splitlines() if line.startswith("http_server_request_duration_seconds_count") and wanted in line]  # fmt: skip
        return sum(float(line.split()[-1]) for line in rows) == 6 and 'source_workload="client"' in rows[0]

    eventually(served, 20)
    assert "sidelight_bpf_runs_total" in container.metrics(), "what it costs is known without CAP_SYS_ADMIN"
    size = container.image.bytes / 1e6
    print(f"\nimage: {size:.0f} MB: Debian with Python {container.image.debian_bytes / 1e6:.0f}, our packages {container.image.python_bytes / 1e6:.0f}")  # fmt: skip
    assert size < 300


MATRIX = [
    ("CAP_BPF", {"drop": "bpf"}, "CAP_BPF is missing"),
    ("CAP_NET_ADMIN", {"drop": "net_admin"}, "CAP_NET_ADMIN is missing"),
    ("CAP_PERFMON", {"drop": "perfmon"}, "CAP_PERFMON is missing"),
    ("hostPath /sys/fs/cgroup", {"cgroup": False}, "no such directory"),
    ("hostPath /sys/fs/bpf", {"bpffs": False}, "no bpffs at /sys/fs/bpf"),
    ("bpf in the seccomp profile", {"seccomp": "bpf"}, "Operation not permitted"),
]


@pytest.mark.parametrize(("privilege", "without", "said"), MATRIX, ids=[row[0] for row in MATRIX])
def test_each_privilege_is_needed(container: Container, privilege: str, without: dict[str, object], said: str) -> None:
    if name := without.get("drop"):
        container.capabilities.remove(str(name))
    container.start(**{key: value for key, value in without.items() if key != "drop"})  # type: ignore[arg-type]
    line = container.refused()
    print(f"\nwithout {privilege}: {line}")
    assert said in line


def test_the_document_names_every_privilege() -> None:
    text = (ROOT / "docs" / "privileges.md").read_text()
    for privilege, *_ in MATRIX:
        assert privilege.split()[-1] in text, privilege


def test_a_wheel_is_the_same_bytes_wherever_it_is_built(tmp_path: Path) -> None:
    digests = set()
    for place in ("a", "much/longer/place"):
        source = tmp_path / place
        subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(source / "dist"), str(source)],
            check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}, capture_output=True,
        )  # fmt: skip
        (wheel,) = (source / "dist").glob("*.whl")
        digests.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_bill_of_materials_is_the_lock() -> None:
    from daemonset.supply import SBOM, locked

    bill = {component["name"]: component["version"] for component in json.loads(SBOM.read_text())["components"]}
    assert bill == locked()
    listed = (ROOT / "docs" / "licences.md").read_text()
    assert all(f"| {name} | {version} |" in listed for name, version in locked().items())
