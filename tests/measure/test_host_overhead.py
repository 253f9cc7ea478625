"""What the host does for a step, timed by pytest-benchmark and counted: what a CPU can guard.

On the meta device nothing is computed, so what is left is Python and dispatch. Times are printed
and can be compared (`--benchmark-compare`); only counts, which no neighbour changes, are held to a
budget: of operators dispatched, and of calls that this package's own Python makes.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils._python_dispatch import TorchDispatchMode

from bench.host import BIG, GRID, TEXT, replaying
from bench.meta_step import meta_step
from disca_rt.attention.local import LocalAttention
from disca_rt.graphs.runner import GraphRunner
from disca_rt.kernels import reference
from disca_rt.kernels.launch import launch_config
from disca_rt.measure.random_models import random_runtime
from disca_rt.measure.steps import Subject
from disca_rt.measure.workloads import Workload, random_conditioning
from disca_rt.schedule import get_preset, preset
from disca_rt.tokens import TokenLayout
from disca_rt.work.memory import Need, footprint
from recorded import record

CPU = torch.device("cpu")
ROUNDS = {"rounds": 5, "warmup_rounds": 1}
# Operators dispatched: a step's ends, and what a block adds; 106, 76, 54 and 214 when this was
# written. A full step has 3,800: at 5 µs each, which PyTorch takes on a fast host, 19 ms.
ENDS, DOUBLE, SINGLE, PREDICTED = 120, 85, 60, 240
# Calls of ours, alike, the loop's included: 421, 216, 135 and 674; 10,141 in a full step of 13B. Of
# a step that is replayed 63, of one of a replayed trajectory 0, of a look-up before a launch 10.
ENDS_CALLS, DOUBLE_CALLS, SINGLE_CALLS, PREDICTED_CALLS = 430, 220, 140, 690
REPLAYED_CALLS, TRAJECTORY_CALLS, LAUNCH_CALLS = 70, 1, 11
REPLAYED = 8  # copies of inputs: latents, t, r, guidance, text, pooled text, two rotary tables

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Operators(TorchDispatchMode):
    """Counts those that would launch something: views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        return out


def operators(run: Callable[[], object]) -> int:
    with torch.no_grad(), Operators() as seen:
        run()
    return seen.count


def counted(double: int, single: int) -> tuple[int, int]:
    """Of a full and of a predicted step."""
    step = meta_step(replace(BIG, double=double, single=single), GRID, TEXT)
    return operators(step.full), operators(step.predicted)


def test_a_step_stays_within_its_budget_of_operators() -> None:
    (two, predicted), (three, _), (more_single, _) = counted(2, 2), counted(3, 2), counted(2, 3)
    double, single = three - two, more_single - two
    ends = two - 2 * double - 2 * single
    print(f"\n{ends} at the ends, {double} a double block, {single} a single one, {predicted=}")
    assert ends <= ENDS
    assert double <= DOUBLE
    assert single <= SINGLE
    assert predicted <= PREDICTED
    assert counted(20, 40)[1] == predicted, "it does not depend on how many blocks there are"


@pytest.mark.parametrize("index", [0, 1])
def test_a_replayed_step_is_a_copy_of_its_inputs(index: int) -> None:
    assert operators(replaying(index, replace(BIG, double=2, single=4))) <= REPLAYED


class Calls(NamedTuple):
    """Per step of a sample, the loop around it included."""

    full: float
    predicted: float


def own_calls(run: Callable[[], object]) -> int:
    """Those that this package's Python makes; what PyTorch's makes varies by its version."""
    made = 0

    def seen(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        caller = {"call": frame.f_back, "c_call": frame}.get(event)
        made += caller is not None and str(caller.f_globals.get("__name__")).startswith("disca_rt")

    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(None)
    return made


def sampling(double: int, single: int) -> Subject:
    small = {"hidden": 64, "heads": 2, "rope": (8, 12, 12), "text_dim": 32, "text_dim_2": 24}
    config = replace(BIG, double=double, single=single, **small)
    runtime = random_runtime(config, CPU, torch.float32)
    latents = config.in_channels, 1, 4, 4
    given = random_conditioning(config, Workload("few", "", (0, 0, 0), text=5), latents)
    return Subject(runtime, given, latents, "disca", preset(1, 5.0, (0,)))


def calls_of_a_step(subject: Subject, on_step: Callable[[Any], None] | None) -> Calls:
    """By what more steps add, once everything that is captured is."""

    def sample(steps: int, full: int) -> int:
        run = partial(subject.sample, preset(steps, 5.0, tuple(range(full))), on_step)
        run()
        run()
        return own_calls(run)

    four = sample(4, 4)
    return Calls((sample(8, 8) - four) / 4, (sample(8, 4) - four) / 4)


def ignore(event: object) -> None:
    """Looks at each step, so that steps are captured one by one."""


def test_a_step_of_the_loop_stays_within_its_budget_of_calls() -> None:
    two, three, more_single = (
        calls_of_a_step(sampling(*blocks), ignore) for blocks in ((2, 2), (3, 2), (2, 3))
    )
    double, single = three.full - two.full, more_single.full - two.full
    ends = two.full - 2 * double - 2 * single
    print(f"\n{ends} at the ends, {double} a double block, {single} a single one, {two}")
    assert ends <= ENDS_CALLS
    assert double <= DOUBLE_CALLS
    assert single <= SINGLE_CALLS
    assert two.predicted <= PREDICTED_CALLS
    assert two.predicted == three.predicted == more_single.predicted


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
    print(f"\n{few}")
    assert max(few) <= budget
    assert few == many, "it does not depend on how many blocks there are"


def test_replay(benchmark: BenchmarkFixture) -> None:
    run = replaying(0)
    with torch.inference_mode():
        benchmark(run)


@pytest.mark.parametrize("kind", ["full", "predicted"])
def test_step(benchmark: BenchmarkFixture, kind: str) -> None:
    """Of the 13B model, over a tenth of its blocks: a full step of all takes ten times as long."""
    run = getattr(meta_step(replace(BIG, double=2, single=4), GRID, TEXT), kind)
    with torch.inference_mode():
        benchmark.pedantic(run, **ROUNDS)


def test_schedule(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(lambda: list(get_preset("disca-n4").schedule))) == 20


def test_launch_configuration(benchmark: BenchmarkFixture) -> None:
    """The table's look-up before each launch of a fused op."""
    look_up = partial(launch_config, "layer_norm_modulate", 3072, CPU)
    assert benchmark(look_up).rows >= 1
    assert own_calls(look_up) <= LAUNCH_CALLS


def test_memory_estimate(benchmark: BenchmarkFixture) -> None:
    need = Need(BIG, None, (33, 88, 88), TEXT, itemsize=2)
    assert benchmark(footprint, need).total > 0


def test_plan(benchmark: BenchmarkFixture) -> None:
    """Who has what of 64,144 tokens over 8 ranks."""
    native = pytest.importorskip("disca_rt.parallel._native")
    assert len(benchmark(native.token_shard, 63_888, TEXT, 8, 3).img) > 0


def test_attention(benchmark: BenchmarkFixture) -> None:
    attention, layout = LocalAttention(), TokenLayout(3, None)
    x = torch.randn(1, 4, 2, 8)

    def attend() -> torch.Tensor:
        handle = attention.begin(layout)
        handle.put_v(x)
        handle.put_k(x)
        handle.put_q(x)
        return handle.result(None)

    with torch.inference_mode():
        assert benchmark(attend).shape == (1, 4, 16)


X, VECTOR = torch.randn(1, 40, 64), torch.randn(1, 64)
HEADS, NORM, ROPE = torch.randn(1, 40, 2, 32), torch.ones(32), torch.ones(37, 16)
OPS = {
    "layer_norm_modulate": (X, VECTOR, VECTOR),
    "gate_residual": (X, X, VECTOR),
    "gate_residual_layer_norm_modulate": (X, X, VECTOR, VECTOR, VECTOR),
    "rms_norm_rope": (HEADS, NORM, NORM, ROPE, ROPE),
    "linear_gelu": (X, torch.randn(256, 64), torch.randn(256)),
    "pair_linear": (X, X, torch.randn(64, 128), VECTOR[0]),
    "relative_l1": (X, X + 1),
}


@pytest.mark.parametrize("op", OPS)
def test_reference_op(benchmark: BenchmarkFixture, op: str) -> None:
    """On tensors so small that calling is what takes the time."""
    run = getattr(reference, op)
    with torch.inference_mode():
        benchmark(run, *OPS[op])
