"""Noise levels: their numbers, their checks, the named ones."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disca_rt.schedule import PRESETS, Schedule, from_timesteps, get_preset, preset, shifted


@given(steps=st.integers(1, 60), shift=st.floats(0.5, 20))
def test_sigmas_fall_from_one_to_zero(steps: int, shift: float) -> None:
    sigmas = shifted(steps, shift).sigmas
    assert sigmas[0] == 1.0
    assert sigmas[-1] == 0.0
    assert all(b < a for a, b in pairwise(sigmas))
    for i, sigma in enumerate(sigmas):
        x = 1 - i / steps
        assert sigma == pytest.approx(shift * x / (1 + (shift - 1) * x), abs=1e-6)


def test_each_step_ends_where_the_next_begins() -> None:
    steps = list(get_preset("disca-n4").schedule)
    assert [step.index for step in steps] == list(range(20))
    assert all(a.r == b.t for a, b in pairwise(steps))
    assert steps[0].t == 1000.0
    assert steps[-1].r == 0.0


def test_any_falling_list_is_legal() -> None:
    few = from_timesteps([1000, 750, 500, 250])
    assert few == Schedule((1, 0.75, 0.5, 0.25)) == Schedule((1, 0.75, 0.5, 0.25, 0))
    assert [(step.t, step.r) for step in few] == [(1000, 750), (750, 500), (500, 250), (250, 0)]
    assert Schedule((0.6, 0.1)).steps == 2, "from what is half noise already"


@pytest.mark.parametrize(
    ("name", "full", "widest"),
    [("disca-n4", 8, 4), ("disca-n3", 11, 3), ("disca-n2", 13, 2), ("disca-10", 10, 4)],
)
def test_presets_have_the_papers_counts(name: str, full: int, widest: int) -> None:
    step_list = get_preset(name).step_list
    assert len(step_list) == get_preset(name).full_steps == full
    assert max(b - a for a, b in pairwise(step_list)) == widest


def test_preset_of_1_5() -> None:
    assert get_preset("disca-1.5") == preset(8, 7.0, (0, 2, 4, 7))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: shifted(0, 5.0), "steps must be at least 1, got 0"),
        (lambda: shifted(4, 0.0), "shift must be a positive number"),
        (lambda: shifted(4, float("nan")), "shift must be a positive number"),
        (lambda: Schedule(()), "sigmas must be at least one finite number"),
        (lambda: Schedule((1, float("nan"))), "sigmas must be at least one finite number"),
        (lambda: Schedule((0.5, 0.7)), "sigmas must fall from at most 1 to 0, got"),
        (lambda: Schedule((1.5, 0.5)), "sigmas must fall from at most 1 to 0, got"),
        (lambda: Schedule((0,)), "sigmas must fall from at most 1 to 0, got"),
        (lambda: from_timesteps([1000, 1000]), "timesteps must fall from at most 1000 to 0, got"),
    ],
)
def test_illegal_noise_levels_say_why(make, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ValueError, match="disca-n4") as error:
        get_preset("disca-n9")
    assert all(name in str(error.value) for name in PRESETS)
