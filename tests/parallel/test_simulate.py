"""Simulated timelines by hand, and properties that all of them have."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disca_rt.simulation.timeline import (
    COMPUTE,
    Compute,
    Program,
    RankTimeline,
    Start,
    Transfer,
    Wait,
    simulate,
)

BOTH = 0, 1


def work(seconds: float, name: str = "work") -> Compute:
    return Compute(name, "any", seconds)


def transfer(seconds: float, name: str = "v", wire: str = "wire") -> Transfer:
    return Transfer(name, "any", wire, BOTH, seconds)


def spans(timeline: RankTimeline, lane: str) -> list[tuple[float, float]]:
    return [(each.start, each.stop) for each in timeline.activities if each.lane == lane]


def idle(timeline: RankTimeline) -> float:
    return timeline.seconds - timeline.busy(COMPUTE)


def test_hidden_under_compute() -> None:
    v = transfer(3)
    timeline, other = simulate([[work(1), Start(v), work(4), Wait(v), work(2)]] * 2)
    assert timeline == other
    assert spans(timeline, COMPUTE) == [(0, 1), (1, 5), (5, 7)]
    assert spans(timeline, "wire") == [(1, 4)]
    assert (timeline.seconds, idle(timeline), timeline.busy("wire")) == (7, 0, 3)


def test_exposed_where_nothing_is_left_to_do() -> None:
    v = transfer(3)
    timeline, _ = simulate([[work(1), Start(v), Wait(v), work(2)]] * 2)
    assert spans(timeline, COMPUTE) == [(0, 1), (4, 6)]
    assert idle(timeline) == 3


def test_a_wire_is_first_in_first_out() -> None:
    v, k = transfer(3, "v"), transfer(1, "k")
    timeline, _ = simulate([[Start(v), work(1), Start(k), Wait(k), Wait(v)]] * 2)
    assert spans(timeline, "wire") == [(0, 3), (3, 4)]
    assert timeline.seconds == 4


def test_two_wires_run_beside_each_other() -> None:
    v, k = transfer(3, "v"), transfer(2, "k", "other")
    timeline, _ = simulate([[Start(v), Start(k), Wait(v), Wait(k)]] * 2)
    assert spans(timeline, "wire") == [(0, 3)]
    assert spans(timeline, "other") == [(0, 2)]
    assert timeline.lanes == [COMPUTE, "other", "wire"]


def test_the_slower_rank_holds_up_the_other() -> None:
    v = transfer(2)
    fast, slow = simulate([[work(s), Start(v), work(1), Wait(v)] for s in (1, 5)])
    assert spans(fast, "wire") == spans(slow, "wire") == [(5, 7)]
    assert (idle(fast), idle(slow)) == (5, 1)


def test_a_transfer_that_one_rank_never_starts() -> None:
    v = transfer(2)
    with pytest.raises(ValueError, match="rank 0 waits for ever at v"):
        simulate([[Start(v), Wait(v)], [work(1)]])


seconds = st.floats(0, 10, allow_subnormal=False)


@st.composite
def programs(draw: st.DrawFn) -> list[Program]:
    """Two programs with the same transfers in one order, random durations and waits."""
    transfers = [
        transfer(draw(seconds), str(number), draw(st.sampled_from(["near", "far"])))
        for number in range(draw(st.integers(0, 5)))
    ]
    made: list[Program] = []
    for _ in BOTH:
        steps: list = [work(draw(seconds))]
        for number, each in enumerate(transfers):
            steps += [Start(each), work(draw(seconds))]
            if draw(st.booleans()):
                steps.append(Wait(transfers[draw(st.integers(0, number))]))
        made.append([*steps, *map(Wait, transfers), work(draw(seconds))])
    return made


def without_links(program: Program) -> Program:
    return [
        type(step)(step.transfer._replace(seconds=0.0)) if isinstance(step, Start | Wait) else step
        for step in program
    ]


@given(programs())
def test_every_timeline(made: list[Program]) -> None:
    timelines = simulate(made)
    freed = simulate([without_links(program) for program in made])
    for program, timeline, free in zip(made, timelines, freed, strict=True):
        computed = sum(step.seconds for step in program if isinstance(step, Compute))
        assert timeline.busy(COMPUTE) == pytest.approx(computed)
        for lane in timeline.lanes:
            assert all(a[1] <= b[0] for a, b in pairwise(spans(timeline, lane)))
            assert timeline.seconds >= timeline.busy(lane) - 1e-9
        assert timeline.seconds >= free.seconds - 1e-9  # exposure is never negative
        assert idle(timeline) >= -1e-9


@given(programs())
def test_like_ranks_lose_nothing_to_free_links(made: list[Program]) -> None:
    for timeline in simulate([without_links(made[0])] * 2):
        assert idle(timeline) == pytest.approx(0)
