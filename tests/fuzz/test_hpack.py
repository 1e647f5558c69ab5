"""The kernel's HPACK, compiled for the host with the sanitizers, against nghttp2's inflater: tests/fuzz/host/hpack.c."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

from sidelight.agent import hpack
from tests.fuzz.tables import write_tables
from tests.fuzz.test_programs import HERE, PROGRAMS

BLOCKS = 1_000_000


def build(headers: Path, program: Path, *flags: str) -> Path:
    write_tables(program.parent)
    subprocess.run(
        ["clang", "-g", "-O2", *flags, "-Wall", "-Werror", "-Wno-unused-function", f"-I{headers}", f"-I{HERE}", f"-I{program.parent}",
         "-o", str(program), str(HERE / "hpack.c"), "-lnghttp2"],
        check=True,
    )  # fmt: skip
    return program


def run(program: Path, blocks: int, seed: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), str(blocks), str(seed)], capture_output=True, text=True, timeout=900, check=False
    )


def test_a_million_blocks_are_understood_alike(tmp_path: Path) -> None:
    done = run(build(PROGRAMS, tmp_path / "hpack"), BLOCKS, 1)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.split()
    assert int(said[0]) == BLOCKS and int(said[4]) > BLOCKS, done.stdout


def test_no_block_leaves_its_memory(tmp_path: Path) -> None:
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-sanitize=alignment")
    done = run(build(PROGRAMS, tmp_path / "hpack", *flags), BLOCKS // 20, 2)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("header", "right", "wrong"),
    [
        ("l7/hpack.h", "d->total += size;", "d->total += size + 1;"),
        ("l7/hpack.h", "*state = step;", "*state = step + 1;"),
        ("l7/http2.h", "d->shift += 7;", "d->shift += 8;"),
    ],
)
def test_the_comparison_sees_a_mistake(tmp_path: Path, header: str, right: str, wrong: str) -> None:
    broken = tmp_path / "bpf"
    shutil.copytree(PROGRAMS, broken)
    text = (broken / header).read_text()
    assert right in text
    (broken / header).write_text(text.replace(right, wrong))
    assert run(build(broken, tmp_path / "hpack"), 20_000, 1).returncode != 0


def test_the_tables_are_the_specification_s() -> None:
    assert hpack.huffman_codes() == list(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))
    assert [name for name, _ in hpack.STATIC_TABLE] == [name.decode() for name, _ in HeaderTable.STATIC_TABLE]
    for (name, value), (_, expected) in zip(hpack.STATIC_TABLE, HeaderTable.STATIC_TABLE, strict=True):
        assert value == (expected.decode() if name.startswith(":") else ""), name
