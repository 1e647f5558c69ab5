"""The kernel programs' C on the host: libFuzzer, with the address and undefined-behaviour sanitizers (tests/fuzz/host)."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.fuzz.tables import write_tables

HERE = Path(__file__).parent / "host"
PROGRAMS = Path(__file__).resolve().parents[2] / "bpf"
RUNS = 60_000


def build(headers: Path, program: Path) -> Path:
    """The fuzzer, from bpf/ or a copy of it."""
    write_tables(program.parent)
    subprocess.run(
        ["clang", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined",
         # words are read where they are: BPF may, and the host may too
         "-fno-sanitize=alignment",
         "-Wall", "-Werror", "-Wno-unused-function", f"-I{headers}", f"-I{HERE}", f"-I{program.parent}", "-o", str(program), str(HERE / "segments.c")],
        check=True,
    )  # fmt: skip
    return program


def fuzz(program: Path, runs: int, scratch: Path) -> subprocess.CompletedProcess[str]:
    """So many conversations: the kept corpus, and mutations of it."""
    corpus = scratch / "corpus"
    with tarfile.open(HERE / "corpus.tar.xz") as archive:
        archive.extractall(corpus)
    return subprocess.run(
        [str(program), f"-runs={runs}", "-max_len=8192", "-seed=7", f"-artifact_prefix={scratch}/", str(corpus)],
        capture_output=True, text=True, errors="replace", timeout=600, check=False,
    )  # fmt: skip


def test_no_conversation_breaks_bounds_or_books(tmp_path: Path) -> None:
    """For more: the same binary with -max_total_time, then `-merge=1` into the corpus."""
    done = fuzz(build(PROGRAMS, tmp_path / "segments"), RUNS, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS} runs" in done.stderr


def test_the_harness_sees_a_broken_bound(tmp_path: Path) -> None:
    """A check that cannot fail is none: with a window too small for its reads, the sanitizer or the books must object."""
    broken = tmp_path / "bpf"
    shutil.copytree(PROGRAMS, broken)
    header = broken / "order" / "source.h"
    text = header.read_text()
    wrong = text.replace("	s->have += n;\n", "	s->have += n + 1;\n")
    assert wrong != text
    header.write_text(wrong)
    done = fuzz(build(broken, tmp_path / "segments"), 5000, tmp_path)
    assert done.returncode != 0
