"""The layouts read from bpf/types.h are the C compiler's."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sidelight.agent import books, layout
from sidelight.agent.errors import DecodeError

SHARED = (
    "edge_key",
    "edge_value",
    "latency_key",
    "latency_value",
    "event",
    "request_event",
    "payload_event",
    "settings",
)


def test_offsets_and_sizes_are_the_compilers(tmp_path: Path) -> None:
    structs = layout.parse_structs(layout.source("types.h"))
    lines = []
    for name in SHARED:
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        lines += [
            f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));' for field in structs[name].names or ()
        ]
    program = (
        "#include <stdio.h>\n#include <stddef.h>\n#include <stdint.h>\n"
        "typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;\n"
        + layout.source("types.h")
        + "int main(void) {"
        + "\n".join(lines)
        + "}"
    )
    (tmp_path / "t.c").write_text(program)
    subprocess.run(["gcc", "-o", tmp_path / "t", tmp_path / "t.c"], check=True)
    said = subprocess.run([tmp_path / "t"], check=True, capture_output=True, text=True).stdout
    ours = []
    for name in SHARED:
        dtype = structs[name]
        ours.append(f"{name} {dtype.itemsize}")
        ours += [f"{name}.{field} {dtype.fields[field][1]}" for field in dtype.names or ()]  # type: ignore[index]
    assert said.split("\n")[:-1] == ours


def test_a_field_outside_the_grammar_is_refused() -> None:
    with pytest.raises(DecodeError, match="cannot read"):
        layout.parse_structs("struct x {\n\tint *p;\n};\n")
    with pytest.raises(DecodeError, match="unknown type"):
        layout.parse_structs("struct x {\n\tlong p;\n};\n")


def test_bounds_are_exact_and_of_scale_two() -> None:
    for index, bound in enumerate(layout.BUCKET_BOUNDS_NS):
        quarters = index - layout.BUCKET_OFFSET
        power = 10**36 * 2**quarters if quarters >= 0 else 10**36 // 2**-quarters
        assert bound**4 <= power < (bound + 1) ** 4 or quarters < 0
        assert math.isclose(bound, 1e9 * 2 ** (quarters / 4), abs_tol=1.0)
    assert list(layout.BUCKET_BOUNDS_NS) == sorted(set(layout.BUCKET_BOUNDS_NS))


def test_every_counter_has_a_kind_and_fits_its_map() -> None:
    counters = layout.counters()
    assert len({counter.name for counter in counters}) == len(counters) <= 96
    assert {counter.kind for counter in counters} == {"SEEN", "LOST", "UNDECIDED"}


def test_the_books_read_edge_keys_where_the_programs_put_them() -> None:
    key = np.zeros(1, layout.EDGE_KEY)
    key["cgroup_id"], key["peer_cgroup_id"], key["port"], key["role"] = 1, 2, 3, 4
    key["remote"] = np.frombuffer(bytes(range(16)), np.uint8)
    assert books._EDGE_KEY.unpack_from(key.tobytes()) == (1, 2, bytes(range(16)), 3, 4)
