"""Callbacks are put behind the programs that name them, once, and found by distance."""

from __future__ import annotations

import struct

from sidelight.agent import layout
from sidelight.agent.compiler import BPF_LOOP, CALLBACK_MARK, SECOND_ARGUMENT_FIRST, WALKED_MARK, link, link_walked

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
MOVE = struct.pack("<BBhi", 0xB7, 0, 0, 1)


def load(low: int, high: int = CALLBACK_MARK, register: int = 2) -> bytes:
    return struct.pack("<BBhI", 0x18, register, 0, low) + struct.pack("<BBhI", 0, 0, 0, high)


def test_a_program_without_callbacks_stays_as_it_is() -> None:
    program = load(7, 0) + MOVE + EXIT
    assert link(program, [MOVE + EXIT]) == (program, [])


def test_named_twice_linked_once_and_callbacks_may_name_others() -> None:
    inner, outer = MOVE + EXIT, load(0) + EXIT
    program = load(1) + load(1, register=3) + EXIT
    linked, starts = link(program, [inner, outer])
    assert starts == [5, 9]
    assert linked[5 * 8 : 6 * 8] == SECOND_ARGUMENT_FIRST and linked[9 * 8 : 10 * 8] == SECOND_ARGUMENT_FIRST
    assert linked[10 * 8 :] == inner

    def target(index: int) -> int:
        code, registers, _, distance = struct.unpack_from("<BBhi", linked, index * 8)
        assert code == 0x18 and registers >> 4 == 4 and struct.unpack_from("<I", linked, index * 8 + 12)[0] == 0
        return int(index + 1 + distance)

    assert target(0) == target(2) == 5 and target(6) == 9


def test_the_names_are_the_source_s() -> None:
    text = layout.programs_text()
    for name in layout.callbacks():
        assert f"int {name}(struct" in text


def test_a_loop_that_is_walked_is_a_function_of_its_own() -> None:
    """For kernels without bpf_loop(): the call goes to a function that calls the callback so many times, or until it says 1."""
    program = load(12 << 8, WALKED_MARK) + BPF_LOOP + EXIT
    walked = link_walked(program, [MOVE + EXIT])
    assert walked is not None
    opcode, registers, _, distance = struct.unpack_from("<BBhi", walked, 2 * 8)
    assert (opcode, registers >> 4) == (0x85, 1) and 2 + 1 + distance == 4, "to the function behind the program"
    assert struct.unpack_from("<BBhi", walked, 10 * 8) == (0xA5, 0x07, -5, 12)
    opcode, registers, _, distance = struct.unpack_from("<BBhi", walked, 7 * 8)
    assert (opcode, registers >> 4) == (0x85, 1) and walked[(7 + 1 + distance) * 8 :] == MOVE + EXIT
    assert link_walked(load(0), [MOVE + EXIT]) is None and link_walked(MOVE + EXIT, []) is None
