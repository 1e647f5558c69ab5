"""Recordings: whatever happens to the end of the file, what is read is what was written before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidelight.agent.errors import ConfigError
from sidelight.cli.recording import MAGIC, FlowWriter, read_all
from sidelight.exporter.proto import flow_pb2, observer_pb2


def response(number: int) -> observer_pb2.GetFlowsResponse:
    return observer_pb2.GetFlowsResponse(flow=flow_pb2.Flow(uuid=str(number)), node_name="n")


def written(path: Path, first: int, blocks: list[int]) -> int:
    writer = FlowWriter(path)
    for size in blocks:
        for _ in range(size):
            writer.add(response(first))
            first += 1
        writer.flush()
    writer.close()
    return first


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=6), st.data())
def test_a_cut_or_spoilt_file_gives_its_beginning_and_can_be_appended_to(tmp_path_factory: pytest.TempPathFactory, blocks: list[int], data: st.DataObject) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("record") / "flows"
    total = written(path, 0, blocks)
    raw = bytearray(path.read_bytes())
    size = len(raw)
    cut = data.draw(st.integers(len(MAGIC), len(raw)))
    spoilt = data.draw(st.none() | st.integers(len(MAGIC), max(len(MAGIC), cut - 1)))
    del raw[cut:]
    if spoilt is not None and spoilt < len(raw):
        raw[spoilt] ^= 0xFF
    path.write_bytes(raw)
    found = [int(r.flow.uuid) for r in read_all(path)]
    assert found == list(range(len(found))) and len(found) <= total
    if spoilt is None and cut == size:
        assert len(found) == total
    end = written(path, 1000, [3])
    assert [int(r.flow.uuid) for r in read_all(path)] == [*found, 1000, 1001, 1002] and end == 1003


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_behind_the_header_are_read_without_harm(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    path = tmp_path_factory.mktemp("record") / "flows"
    path.write_bytes(MAGIC + body)
    list(read_all(path))


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("dear all")
    with pytest.raises(ConfigError):
        list(read_all(path))
    with pytest.raises(ConfigError):
        FlowWriter(path)
    assert path.read_text() == "dear all"
