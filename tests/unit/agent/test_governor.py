"""Down in order, up with hysteresis, one step at a time."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sidelight.agent.governor import RESTORE_AFTER, SHED_AFTER, Governor, Level
from sidelight.agent.settings import CaptureSettings

MB = 1 << 20


def test_each_level_sheds_what_those_before_it_do() -> None:
    capture = CaptureSettings()
    applied = [level.apply(capture) for level in Level]
    assert [(a.events, a.head_text, a.l7) for a in applied] == [
        (True, True, True),
        (False, True, True),
        (False, False, True),
        (False, False, False),
    ]
    assert not Level.NOTHING_SHED.apply(CaptureSettings(l7=False)).l7, "what is off by settings stays off"


def test_down_after_three_judgements_and_up_after_thirty() -> None:
    governor = Governor(cpu_budget=0.1)
    now = cpu = 0.0
    steps = []
    for share in [0.2] * (3 * SHED_AFTER + 4) + [0.09] * 50 + [0.05] * (3 * RESTORE_AFTER + 4):
        now, cpu = now + 1.0, cpu + share
        if (level := governor.judge(now, cpu, 0)) is not None:
            steps.append((now, level))
    assert [level for _, level in steps] == [1, 2, 3, 2, 1, 0]
    down, up = steps[:3], steps[3:]
    assert [b[0] - a[0] for a, b in itertools.pairwise(down)] == [SHED_AFTER] * 2
    assert [b[0] - a[0] for a, b in itertools.pairwise(up)] == [RESTORE_AFTER] * 2
    assert up[0][0] > 63 + RESTORE_AFTER - 1, "90 % of the budget is no reason to take anything back"


def test_memory_counts_as_well_and_no_budget_never_sheds() -> None:
    tight, free = Governor(memory_budget=50 * MB), Governor()
    for second in range(20):
        tight.judge(float(second), 0.0, 60 * MB)
        assert free.judge(float(second), float(second) * 8, 1 << 40) is None
    assert tight.level is Level.L7_SHED and tight.load == 1.2
    assert free.level is Level.NOTHING_SHED


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5)), max_size=300))
def test_it_moves_by_one_and_never_beyond_its_ends(history: list[tuple[float, float]]) -> None:
    """Clocks that stand still included."""
    governor = Governor(cpu_budget=0.5)
    now = cpu = 0.0
    level = governor.level
    for seconds, used in history:
        now, cpu = now + seconds, cpu + used
        changed = governor.judge(now, cpu, 0)
        assert (changed is None) == (governor.level == level)
        assert abs(governor.level - level) <= 1 and governor.level in Level
        level = governor.level
