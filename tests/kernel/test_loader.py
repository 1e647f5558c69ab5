"""Loading twice, replacing, changing layouts, unloading, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidelight.agent import bpf, compiler, loader
from sidelight.agent.errors import SidelightError, VerifierError
from sidelight.agent.loader import LoadRequest, Pins, Sizes, run_loader
from tests.observed import Observed


def test_twice_is_harmless_and_keeps_counts(watch: Observed) -> None:
    subprocess.run(["true"], check=True)
    watch.start("c", ["curl", "-s", "http://127.0.0.1:1/"]).wait()
    assert watch.source.counters()["seen_attempts"] == 1
    report = run_loader(LoadRequest(str(watch.cgroup), watch.instance))
    assert report.status == "kept"
    watch.start("c", ["curl", "-s", "http://127.0.0.1:1/"]).wait()
    assert watch.source.counters()["seen_attempts"] == 2


def test_another_size_starts_fresh_and_says_so(watch: Observed) -> None:
    report = run_loader(LoadRequest(str(watch.cgroup), watch.instance, sizes=Sizes(edges=64)))
    assert report.status == "restarted"
    pins = Pins.of(watch.instance)
    assert [path.name for path in pins.root.glob("maps-*")] == [pins.maps(Sizes(edges=64)).name]


def test_unload_leaves_nothing(watch: Observed) -> None:
    assert loader.unload(watch.instance)
    assert not Pins.of(watch.instance).root.exists()
    assert not loader.unload(watch.instance)


def test_another_cgroup_needs_another_instance(watch: Observed) -> None:
    other = watch.cgroup / "other"
    other.mkdir()
    with pytest.raises(SidelightError, match="another --instance"):
        run_loader(LoadRequest(str(other), watch.instance))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (LoadRequest("/tmp", "test-bad"), "not a cgroup2 directory"),
        (LoadRequest("/nowhere", "test-bad"), "no such directory"),
        (LoadRequest(str(loader.cgroup2_root()), "a/b"), "letters, digits"),
        (LoadRequest(str(loader.cgroup2_root()), "test-bad", bpffs="/tmp"), "mount -t bpf bpf /tmp"),
    ],
)
def test_bad_requests_are_one_clear_line(request_: LoadRequest, says: str) -> None:
    with pytest.raises(SidelightError, match=says) as caught:
        run_loader(request_)
    assert "\n" not in str(caught.value)
    assert not Path("/sys/fs/bpf/sidelight/test-bad").exists()


def test_a_refused_program_tells_why(watch: Observed) -> None:
    # r0 is read before it is set
    program = compiler.ProgramSpec("ingress", b"\x95\0\0\0\0\0\0\0", [])
    artifact = compiler.Artifact("", "", [], [program])
    with pytest.raises(VerifierError, match="ingress") as caught:
        loader._load_programs(artifact, {})
    assert any("R0 !read_ok" in line for line in caught.value.log)


def test_little_locked_memory(watch: Observed) -> None:
    """Kernels before 5.11 count maps as such: it is one line that says what to give; to others it is nothing."""
    code = (
        "import sys, msgspec; from sidelight.agent.errors import SidelightError; from sidelight.agent.loader import LoadRequest, run_loader\n"
        "try: print(run_loader(LoadRequest(sys.argv[1], sys.argv[2])).status)\n"
        "except SidelightError as error: print(error)"
    )
    other = watch.cgroup / "other"
    other.mkdir()
    instance = f"{watch.instance}-locked"
    command = ["prlimit", "--memlock=65536:65536", "setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource", sys.executable, "-c", code, str(other), instance]  # fmt: skip
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    finally:
        loader.unload(instance)
    if bpf.counts_memlock():
        assert "64 KB are allowed: give CAP_SYS_RESOURCE" in said and "\n" not in said
    else:
        assert said == "fresh"


def test_without_rights_it_is_one_line() -> None:
    command = [sys.executable, "-m", "sidelight.cli.main", "tail"]
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", *command],
        capture_output=True, text=True, check=False, env={**os.environ, "HOME": "/tmp"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("sidelight: not root") and done.stderr.count("\n") == 1


def test_asking_for_costs_opens_nothing_for_good(watch: Observed) -> None:
    """Every scrape asks."""
    watch.source.costs()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        assert {cost.name for cost in watch.source.costs()} == {"egress", "ingress", "sock_ops", "sock_release"}
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
