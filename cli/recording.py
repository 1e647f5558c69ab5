"""Files of flows: compact, append-only, readable up to the last whole block after a kill -9.

A file is a header and blocks: 4 bytes length, 4 bytes CRC-32, then zlib-compressed GetFlowsResponse messages, each behind a
varint of its length. A reader stops at the first block that is not whole, and says so.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.internal.decoder import _DecodeVarint32  # type: ignore[attr-defined]
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]
from google.protobuf.message import DecodeError

from sidelight.agent.errors import ConfigError
from sidelight.exporter.filters import FilterError, compile_filters
from sidelight.exporter.proto import observer_pb2

MAGIC = b"SIDELIGHT FLOWS 1\n"
BLOCK_FLOWS = 500
FLUSH_S = 1.0
MAX_BLOCK_BYTES = 64 << 20


class FlowWriter:
    """Appends flows to a file, block by block. Raises OSError when the disk is full; the blocks before are whole."""

    def __init__(self, path: Path) -> None:
        fresh = not path.exists() or path.stat().st_size == 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if fresh:
            os.write(self._file, MAGIC)
        else:
            with path.open("rb") as start:
                if start.read(len(MAGIC)) != MAGIC:
                    os.close(self._file)
                    raise ConfigError(f"{path} is not a recording of Sidelight: not appending to it")
            _cut_broken_end(path)
        self._pending: list[bytes] = []
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._failed: OSError | None = None
        self.written = 0
        threading.Thread(target=self._flush_now_and_then, name="record", daemon=True).start()

    def add(self, response: observer_pb2.GetFlowsResponse) -> None:
        with self._lock:
            if self._failed:
                raise self._failed
            self._pending.append(response.SerializeToString())
            if len(self._pending) >= BLOCK_FLOWS:
                self.flush()

    def _flush_now_and_then(self) -> None:
        """Flows may stop coming: what came is on the disk within a second all the same."""
        while not self._closed.wait(FLUSH_S):
            try:
                self.flush()
            except OSError as error:
                self._failed = error
                return

    def flush(self) -> None:
        """Ends the block: what is in it survives."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        body = zlib.compress(b"".join(_VarintBytes(len(item)) + item for item in self._pending), 3)
        block = struct.pack("<II", len(body), zlib.crc32(body)) + body
        if os.write(self._file, block) != len(block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += len(self._pending)
        self._pending.clear()

    def close(self) -> None:
        """Writes what is left. Raises OSError."""
        self._closed.set()
        try:
            if self._failed:
                raise self._failed
            self.flush()
        finally:
            os.close(self._file)


def _whole_blocks(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """(end offset, decompressed body) of each whole block."""
    at = len(MAGIC)
    while at + 8 <= len(raw):
        length, checksum = struct.unpack_from("<II", raw, at)
        body = raw[at + 8 : at + 8 + length]
        if length > MAX_BLOCK_BYTES or len(body) < length or zlib.crc32(body) != checksum:
            return
        decompressor = zlib.decompressobj()
        try:
            plain = decompressor.decompress(body, MAX_BLOCK_BYTES)
        except zlib.error:
            return
        at += 8 + length
        yield at, plain


def _cut_broken_end(path: Path) -> None:
    raw = path.read_bytes()
    end = len(MAGIC)
    for end, _ in _whole_blocks(raw):  # noqa: B007
        pass
    if end < len(raw):
        os.truncate(path, end)


def read_all(path: Path) -> Iterator[observer_pb2.GetFlowsResponse]:
    """The flows of a file, in order. Raises ConfigError for a file of another kind."""
    raw = path.read_bytes()
    if not raw.startswith(MAGIC):
        raise ConfigError(f"{path} is not a recording of Sidelight")
    for _, plain in _whole_blocks(raw):
        at = 0
        while at < len(plain):
            try:
                length, at = _DecodeVarint32(plain, at)
                response = observer_pb2.GetFlowsResponse.FromString(plain[at : at + length])
            except (DecodeError, IndexError):
                return
            at += length
            yield response


def read_flows(path: Path, request: observer_pb2.GetFlowsRequest) -> Iterator[observer_pb2.GetFlowsResponse]:
    """The flows of a file that a GetFlows request asks for."""
    try:
        wanted = compile_filters(request.whitelist, request.blacklist)
    except FilterError as error:
        raise ConfigError(str(error)) from None
    since = request.since.ToNanoseconds() if request.HasField("since") else 0
    until = request.until.ToNanoseconds() if request.HasField("until") else 1 << 63
    chosen = (
        response
        for response in read_all(path)
        if response.HasField("lost_events")
        or (since <= response.flow.time.ToNanoseconds() <= until and wanted(response.flow))
    )
    if request.number:
        yield from list(chosen)[-request.number :]
    else:
        yield from chosen
