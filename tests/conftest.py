"""Fixtures: a machine that can run the programs, and one under observation."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from sidelight.agent.bpf import BPF_FS_MAGIC, filesystem_magic
from tests.observed import Namespaces, Observed, namespaces, observed


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """Root and bpffs are what the tests need; missing either is a failure, not a skip."""
    assert os.geteuid() == 0, "the tests load BPF programs: run them as root"
    if filesystem_magic(Path("/sys/fs/bpf")) != BPF_FS_MAGIC:
        subprocess.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"], check=True)


@pytest.fixture
def watch() -> Iterator[Observed]:
    with observed() as found:
        yield found


@pytest.fixture
def veth() -> Iterator[Namespaces]:
    with namespaces() as found:
        yield found


@pytest.fixture(scope="module")
def _shared() -> Iterator[Observed]:
    with observed() as found:
        yield found


@pytest.fixture
def shared(_shared: Observed) -> Iterator[Observed]:
    """One loaded set of programs for a module's tests: each begins with empty totals."""
    _shared.forget()
    yield _shared
    _shared.processes.stop_all()
