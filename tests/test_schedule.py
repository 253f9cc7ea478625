"""Schedules: their numbers, their checks, the named ones."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disca_rt.schedule import PRESETS, Schedule, full_schedule, get_preset


@given(steps=st.integers(1, 60), shift=st.floats(0.5, 20))
def test_sigmas_fall_from_one_to_zero(steps: int, shift: float) -> None:
    schedule = full_schedule(steps, shift)
    sigmas = schedule.sigmas
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    assert all(b < a for a, b in pairwise(sigmas))
    for i, sigma in enumerate(sigmas):
        x = 1 - i / steps
        assert sigma == pytest.approx(shift * x / (1 + (shift - 1) * x), abs=1e-6)


def test_each_step_ends_where_the_next_begins() -> None:
    steps = list(get_preset("disca-n4"))
    assert [step.index for step in steps] == list(range(20))
    assert all(a.r == b.t for a, b in pairwise(steps))
    assert steps[0].t == 1000.0
    assert steps[-1].r == 0.0
    assert [s.index for s in steps if s.is_full] == [0, 1, 2, 5, 9, 13, 17, 19]


@pytest.mark.parametrize(
    ("name", "full", "widest"),
    [("disca-n4", 8, 4), ("disca-n3", 11, 3), ("disca-n2", 13, 2), ("disca-10", 10, 4)],
)
def test_presets_have_the_papers_counts(name: str, full: int, widest: int) -> None:
    step_list = get_preset(name).step_list
    assert len(step_list) == full
    assert max(b - a for a, b in pairwise(step_list)) == widest


def test_preset_of_1_5() -> None:
    assert get_preset("disca-1.5") == Schedule(8, 7.0, (0, 2, 4, 7))


@pytest.mark.parametrize(
    ("step_list", "reason"),
    [
        ((), "begin with 0"),
        ((1, 2), "begin with 0"),
        ((0, 2, 2), "repeats"),
        ((0, 3, 2), "increase"),
        ((0, 8), "below steps"),
        ((0, -1), "increase"),
    ],
)
def test_illegal_step_lists_say_why(step_list: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Schedule(8, 7.0, step_list)


@pytest.mark.parametrize(("steps", "shift"), [(0, 5.0), (-1, 5.0), (4, 0.0), (4, float("nan"))])
def test_illegal_steps_and_shifts(steps: int, shift: float) -> None:
    with pytest.raises(ValueError, match=r"steps|shift"):
        Schedule(steps, shift, (0,))


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ValueError, match="disca-n4") as error:
        get_preset("disca-n9")
    assert all(name in str(error.value) for name in PRESETS)
