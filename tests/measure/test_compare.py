"""Two runs compared: what fails, what noise does not, and what is told beside it."""

import dataclasses
import random
from itertools import combinations
from math import inf

import pytest

from disca_rt.measure import compare as module
from disca_rt.measure.ceilings import MATMUL
from disca_rt.measure.compare import (
    NEEDED,
    RatioInterval,
    compare,
    markdown,
    missing,
    ratio_interval,
)
from disca_rt.measure.harness import Comparison, Contender, Elapsed, Timer, measure
from disca_rt.measure.machine import Machine
from disca_rt.measure.record import Record

CPU = Machine("CPU: abacus", 2, "default", "3.10.0", "2.11.0", None, "0.1.0")
GPU = dataclasses.replace(CPU, device="GPU: abacus")


def records(
    seconds: list[float],
    machine: Machine = CPU,
    name: str = "full step",
    cpu: list[float] | None = None,
    **shape: object,
) -> list[Record]:
    """Records of a contender that takes `seconds`, and as much CPU time unless `cpu` differs."""
    taken = [Elapsed(*each) for each in zip(seconds, cpu or seconds, strict=True)]
    timer = Timer(lambda run: taken.pop(0), warmup=0)
    comparison = Comparison(name, shape, "float32", [Contender("ours", lambda: None)], 1)
    return measure(comparison, len(seconds), machine, 1, timer)


def noisy(median: float, spread: float, count: int = 30, seed: int = 0) -> list[float]:
    drawn = random.Random(seed)
    return [median * drawn.lognormvariate(0, spread) for _ in range(count)]


def test_the_interval_of_a_constant_ratio_is_that_ratio() -> None:
    assert ratio_interval([3.0] * 5, [2.0] * 6) == RatioInterval(1.5, 1.5, 1.5)


def test_the_interval_of_five_samples_by_hand() -> None:
    """Two orders of the 252 are outside, so none of the ratios is left out."""
    interval = ratio_interval([2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 1.0, 1.0, 1.0, 2.0])
    assert interval == RatioInterval(3.0, 1.0, 6.0)


@pytest.mark.parametrize(("now", "before"), [(1, 1), (2, 2), (4, 4), (1, 198), (3, 6)])
def test_too_few_samples_have_no_interval(now: int, before: int) -> None:
    assert NEEDED == 5
    assert ratio_interval([3.0] * now, [2.0] * before) == RatioInterval(1.5, 0.0, inf)
    assert ratio_interval([3.0] * 5, [2.0] * max(before, 5)).is_known


@pytest.mark.parametrize(("now", "before"), [(5, 5), (4, 6), (6, 7)])
def test_the_interval_misses_no_more_often_than_it_says(now: int, before: int) -> None:
    """Coverage over every order of two runs of one code; one more ratio left out is too many."""
    total = now + before
    orders = list(combinations(range(total), now))
    misses = narrower = 0
    for order in orders:
        ours = [1 + 1e-3 * place for place in order]
        theirs = [1 + 1e-3 * place for place in range(total) if place not in order]
        misses += ratio_interval(ours, theirs).low > 1
        ratios = sorted(one / other for one in ours for other in theirs)
        narrower += ratios[module._outside(now, before)] > 1
    assert misses <= 0.005 * len(orders) < narrower


def test_many_samples_are_as_the_normal_distribution_says() -> None:
    exact = module._outside(100, 100)
    assert exact == pytest.approx(5000 - 2.5758 * (10_000 * 201 / 12) ** 0.5, abs=8)
    assert module._outside(101, 101) == pytest.approx(exact * 1.02, rel=0.01)


@pytest.mark.parametrize("machine", [CPU, GPU])
def test_a_planted_regression_of_a_fifth_is_found(machine: Machine) -> None:
    before = records(noisy(1.0, 0.05), machine)
    (change,) = compare(records(noisy(1.2, 0.05, seed=1), machine), before)
    assert change.is_slower
    assert change.wall.ratio == pytest.approx(1.2, rel=0.05)
    assert change.verdict == "**slower**"


@pytest.mark.parametrize("seed", range(1, 9))
def test_noise_is_no_regression(seed: int) -> None:
    before = records(noisy(1.0, 0.1))
    (change,) = compare(records(noisy(1.0, 0.1, seed=seed)), before)
    assert not change.is_slower


def test_a_gain_is_told() -> None:
    (change,) = compare(records([0.8] * 5), records([1.0] * 5))
    assert (change.is_slower, change.verdict) == (False, "faster")


def test_a_busy_neighbour_is_no_regression_on_a_cpu() -> None:
    before = records([1.0] * 5)
    busy = records([1.5] * 5, cpu=[1.0] * 5)
    assert not compare(busy, before)[0].is_slower
    on_gpu = compare(records([1.5] * 5, GPU, cpu=[1.0] * 5), records([1.0] * 5, GPU))
    assert on_gpu[0].is_slower, "there the CPU time is only that of launching"


def test_a_slower_machine_widens_what_is_allowed() -> None:
    ceilings = [records([time] * 5, name=MATMUL) for time in (1.1, 1.0)]
    now, before = records([1.1] * 5), records([1.0] * 5)
    (change,) = compare([*ceilings[0], *now], [*ceilings[1], *before])
    assert change.drift == pytest.approx(0.1)
    assert not change.is_slower
    assert compare(now, before)[0].is_slower


def test_other_work_is_not_compared() -> None:
    now = records([1.0], size=1)
    for before in (
        records([1.0], size=2),
        records([1.0], GPU, size=1),
        [dataclasses.replace(now[0], weights="random")],
        [dataclasses.replace(now[0], ranks=2)],
    ):
        with pytest.raises(ValueError, match="the baseline has none of what was measured"):
            compare(now, before)


def test_what_is_no_longer_measured_is_told() -> None:
    (before,) = records([1.0])
    lost = dataclasses.replace(before, contender="diffusers")
    elsewhere = dataclasses.replace(before, benchmark="sample")
    assert missing([before], [before, lost, elsewhere]) == ["full step: diffusers"]


def test_the_table_of_changes() -> None:
    shown = markdown(compare(records([0.0012] * 5), records([0.001] * 5)))
    row = "| full step | ours | 1.00 ms | 1.20 ms | 1.200 | 1.200 – 1.200 | **slower** |"
    assert row in shown.splitlines()
    assert "Matrix products took 1.000 times" in shown
    assert "verdict on" not in shown.lower()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_samples_have_no_verdict(count: int) -> None:
    (change,) = changes = compare(records([0.003] * count), records([0.001] * count))
    assert (change.is_slower, change.is_faster) == (False, False)
    shown = markdown(changes)
    assert "| full step | ours | 1.00 ms | 3.00 ms | 3.000 | none | none |" in shown.splitlines()
    assert "No verdict on 1 of 1, with too few samples: a 99 % interval needs 5 of each" in shown
