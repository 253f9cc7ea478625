"""Budgets of the host's work for a step, in counts that no neighbour changes.

On the meta device nothing is computed, so what is left is Python and dispatch: operators are
counted, and the calls that this package's own Python makes. `bench.run --only host` has the times.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch

from bench.host import BIG, GRID, TEXT, replaying
from bench.meta_step import meta_step
from disca_rt.config import predictor_config
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.operator_count import OperatorCount
from disca_rt.kernels.launch import launch_config
from disca_rt.measure.random_models import random_runtime
from disca_rt.measure.steps import Steps, Subject
from disca_rt.measure.workloads import Workload, random_conditioning
from disca_rt.schedule import preset
from recorded import record

CPU = torch.device("cpu")
# Operators dispatched in a full step of 13B: 19 ms at the 5 µs each that a fast host takes.
OPERATORS = 3_800
# Calls that this package's Python makes, the loop's included: in a full step of 13B that is not
# captured, in a step that is replayed, in a step of a replayed trajectory, before a launch.
CALLS, REPLAYED_CALLS, TRAJECTORY_CALLS, LAUNCH_CALLS = 10_200, 70, 1, 11
COPIES = 5  # of inputs that change from step to step: latents and scalars

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def operators(run: Callable[[], object]) -> int:
    with torch.no_grad(), OperatorCount() as seen:
        run()
    return seen.count


class Counts(NamedTuple):
    """Counts of a full and of a predicted step."""

    full: float
    predicted: float


def check_budget(budget: int, count: Callable[[int, int], Counts]) -> None:
    """`count` of models with few blocks, single-stream ones last, is within that of 13B's `budget`.

    A predicted step costs at most a full one of a model as deep as the predictor.
    """
    two, three, more_single = (count(*blocks) for blocks in ((2, 2), (3, 2), (2, 3)))
    double, single = three.full - two.full, more_single.full - two.full
    ends = two.full - 2 * double - 2 * single
    said = f"{ends} at the ends, {double} a double block, {single} a single one, {two}"
    assert ends + BIG.double * double + BIG.single * single <= budget, said
    assert two.predicted <= ends + predictor_config(BIG).depth * single, said
    assert two.predicted == three.predicted == more_single.predicted, said


def operators_of_a_step(double: int, single: int) -> Counts:
    step = meta_step(replace(BIG, double=double, single=single), GRID, TEXT)
    return Counts(operators(step.full), operators(step.predicted))


def test_a_step_stays_within_its_budget_of_operators() -> None:
    check_budget(OPERATORS, operators_of_a_step)


@pytest.mark.parametrize("index", [0, 1])
def test_a_replayed_step_is_a_copy_of_its_inputs(index: int) -> None:
    assert operators(replaying(index, replace(BIG, double=2, single=4))) <= COPIES


def own_calls(run: Callable[[], object]) -> int:
    """Number of calls that this package's Python makes; PyTorch's own vary by its version.

    What earlier tests left behind is not ended amid them.
    """
    made = 0

    def seen(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        caller = {"call": frame.f_back, "c_call": frame}.get(event)
        made += caller is not None and str(caller.f_globals.get("__name__")).startswith("disca_rt")

    gc.collect()
    gc.disable()
    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return made


def sampling(double: int, single: int) -> Subject:
    small = {"hidden": 64, "heads": 2, "rope": (8, 12, 12), "text_dim": 32, "text_dim_2": 24}
    config = replace(BIG, double=double, single=single, **small)
    runtime = random_runtime(config, CPU, torch.float32)
    latents = config.in_channels, 1, 4, 4
    given = random_conditioning(config, Workload("few", "", (0, 0, 0), text=5), latents)
    return Subject(runtime, given, latents, "disca", preset(1, 5.0, (0,)))


def calls_of_a_step(subject: Subject, on_step: Callable[[Any], None] | None) -> Counts:
    """Calls that one more step of a sample costs, once everything that is captured is."""

    def sample(steps: int, full: int) -> int:
        run = partial(subject.sample, preset(steps, 5.0, tuple(range(full))), on_step)
        run()
        run()
        return own_calls(run)

    four = sample(4, 4)
    return Counts((sample(8, 8) - four) / 4, (sample(8, 4) - four) / 4)


class Reused(NamedTuple):
    """Counts of a step in which every branch is replaced."""

    operators: int
    calls: int


@pytest.mark.parametrize(
    ("policy", "per_branch", "calls"),
    [("fora:fresh_threshold=2", 1, (124, 32)), ("taylorseer:fresh_threshold=2", 3, (152, 40))],
)
def test_a_block_of_reused_branches_costs_one_pass_a_branch(
    policy: str, per_branch: int, calls: tuple[int, int]
) -> None:
    """One operator adds a tensor to the tokens, one weights the gates; modulations are there."""

    def reused(*blocks: int) -> Reused:
        steps = Steps(replace(sampling(*blocks), policy=policy, schedule=preset(2, 5.0)))
        steps.full()
        steps.predicted()
        return Reused(operators(steps.predicted), own_calls(steps.predicted))

    two, double, single = reused(2, 2), reused(3, 2), reused(2, 3)
    assert double.operators - two.operators == 4 * per_branch
    assert single.operators - two.operators == per_branch
    assert double.calls - two.calls <= calls[0]
    assert single.calls - two.calls <= calls[1]


def ignore(event: object) -> None:
    """Looks at each step, so that steps are captured one by one."""


def test_a_step_of_the_loop_stays_within_its_budget_of_calls() -> None:
    check_budget(CALLS, lambda *blocks: calls_of_a_step(sampling(*blocks), ignore))


@pytest.mark.parametrize(
    ("on_step", "budget"),
    [(ignore, REPLAYED_CALLS), (None, TRAJECTORY_CALLS)],
    ids=["steps", "trajectory"],
)
def test_a_replay_stays_within_its_budget_of_calls(
    on_step: Callable[[Any], None] | None, budget: int
) -> None:
    few, many = (
        calls_of_a_step(sampling(*blocks).captured(GraphRunner(CPU, record)), on_step)
        for blocks in ((2, 2), (3, 4))
    )
    assert max(few) <= budget
    assert few == many, "it does not depend on how many blocks there are"


def test_the_look_up_before_a_launch_stays_within_its_budget_of_calls() -> None:
    look_up = partial(launch_config, "layer_norm_modulate", 3072, CPU)
    look_up()  # reads the table
    assert own_calls(look_up) <= LAUNCH_CALLS
