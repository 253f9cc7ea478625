"""AB-Cache, ERTACache and OmniCache: no public code, so against their formulas written out."""

import pytest
import torch

from cache_draws import BLOCKS, CONFIG, CPU, OPS, SCALE, Draw, Models, models
from cache_oracle import Oracle
from disca_rt.cache.calibration import Uncalibrated
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy, Slot
from disca_rt.cache.rules.ertacache import ErrorBelow, ErrorScaled
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.rules.omnicache import EarlyLateBends, EarlyLateInterval, EarlyLateListed
from disca_rt.cache.site import Site
from disca_rt.cache.stand_in import Moment, StandIn, TensorSpec
from disca_rt.cache.stand_ins.adams_bashforth import AdamsBashforth
from disca_rt.cache.stand_ins.aligned import Aligned
from disca_rt.cache.stand_ins.less_noise import LessNoise
from disca_rt.cache.stand_ins.scaled_change import ScaledChange
from disca_rt.graphs.runner import GraphRunner
from disca_rt.schedule import shifted
from golden_vectors import relative_error
from recorded import record

PARTS = Parts(CONFIG, OPS, sketched(CONFIG).predictor)
WHOLE, VELOCITY = Site("blocks", 0, BLOCKS), Site("velocity")
SLOTS = (Slot(WHOLE, ScaledChange()),)


@pytest.fixture(scope="module")
def eager() -> Models:
    return models()


@pytest.fixture(scope="module")
def captured() -> Models:
    return models(graphs=GraphRunner(CPU, record))


DRAWS = {
    f"k={k}, recursive={recursive}, {site.level}": (Interval(3, 2), site, stand_in)
    for k in (1, 2, 3)
    for recursive, site in ((True, VELOCITY), (False, WHOLE), (k == 3, Site("blocks", 1, 3)))
    for stand_in in [AdamsBashforth(OPS, k, recursive)]
} | {
    "ertacache": (ErrorScaled((0, 1, 4), (0.0, 0.1, -0.2, 0.3)), WHOLE, ScaledChange()),
    "omnicache": (EarlyLateInterval(3), VELOCITY, LessNoise((0.8,), 0.5)),
    "omnicache, all low": (
        EarlyLateListed((0, 2, 3), split=1.0),
        VELOCITY,
        LessNoise((1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2), 1.0),
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_sample_is_what_its_formula_says(name: str, eager: Models, captured: Models) -> None:
    rule, site, stand_in = DRAWS[name]
    draw = Draw(rule, site, stand_in, shifted(9, 3.0), True, 2, 5)
    latents, plans = eager.sample(draw)
    assert relative_error(latents, expected(eager, draw, plans)) <= 1e-4
    assert torch.equal(captured.sample(draw)[0], latents)


def expected(eager: Models, draw: Draw, plans: list[StepPlan]) -> torch.Tensor:
    dit = eager.denoiser.dit
    oracle = Oracle(dit, Policy("drawn", draw.rule, draw.slots(eager.predictor)), SCALE)
    with torch.no_grad():
        prepared = [dit.prepare(each, draw.latents.shape) for each in draw.conditions]
        return oracle.sample(draw.schedule, plans, draw.latents, prepared, None)


def test_values_on_a_polynomial_are_continued_exactly() -> None:
    """Three values lie on a parabola: predicted ones do, and those after the next full step."""

    def parabola(step: int) -> float:
        return 2.0 - 3 * step + 0.5 * step**2

    for recursive in (True, False):
        stand_in = AdamsBashforth(OPS, 3, recursive)
        window, kept_at = torch.full((3, 1), float("nan")), ()
        for step in range(12):
            at = moment(stand_in, kept_at, step)
            value = torch.tensor([parabola(step)])
            if step in (0, 1, 2, 6, 9):
                stand_in.keep((window,), value, at)
                kept_at = (*kept_at, step)
            else:
                assert torch.allclose(stand_in.value((window,), at), value, rtol=1e-4)


@pytest.mark.parametrize("stand_in", [AdamsBashforth(OPS, 3), Aligned(OPS), LessNoise()])
def test_what_an_earlier_sample_left_is_not_read(stand_in: StandIn) -> None:
    value = torch.ones(2, 1, 4, 4)
    specs = stand_in.kept_specs(TensorSpec(tuple(value.shape), value.dtype, CPU))
    kept = tuple(spec.zeros().fill_(float("nan")) for spec in specs)
    stand_in.keep(kept, value, moment(stand_in, (), 0))
    assert torch.equal(stand_in.value(kept, moment(stand_in, (0,), 1)), value)


def moment(stand_in: StandIn, kept_at: tuple[int, ...], step: int) -> Moment:
    return Moment(torch.zeros(()), None, torch.tensor(stand_in.numbers(kept_at, step, ())))


def test_ertacache_reuses_while_the_error_is_small_and_scales_it() -> None:
    """Steps at 0, 0.05, 0.3, ...: their distances are the errors; scales say which pair it was."""
    at = (0.0, 0.05, 0.3, 0.35, 0.38, 0.6)
    pairs = [(s, j) for s in range(6) for j in range(s)]
    errors = tuple(abs(at[s] - at[j]) for s, j in pairs)
    scales = tuple(s + j / 10 for s, j in pairs)

    def given(threshold: float) -> list[float | None]:
        plans = Policy("drawn", ErrorBelow(errors, scales, threshold), SLOTS).known_plans(
            Setting(tuple(shifted(6, 7.0)), 1, 1)
        )
        return [None if plan.label == "full" else plan.given[0] - 1 for plan in plans]

    assert given(0.1) == [None, pytest.approx(1.0), None, *map(pytest.approx, (3.2, 4.2)), None]
    assert given(0.0) == [None] * 6
    assert given(float("inf")) == [None, *map(pytest.approx, (1.0, 2.0, 3.0, 4.0, 5.0))]
    with pytest.raises(ValueError, match="each pair of 5 steps, 10 in all, got 15"):
        ErrorBelow(errors, scales).start(Setting(tuple(shifted(5, 7.0)), 1, 1))


def test_omnicache_computes_where_the_path_bends() -> None:
    def full(curvature: tuple[float, ...], count: int) -> list[int]:
        setting = Setting(tuple(shifted(len(curvature), 7.0)), 1, 1)
        plans = Policy("drawn", EarlyLateBends(count, curvature), SLOTS).known_plans(setting)
        return [i for i, plan in enumerate(plans) if plan.label == "full"]

    assert full((0.0, 1.0, 5.0, 2.0, 5.0), 3) == [0, 2, 4]
    assert full((0.0, 1.0), 1) == [0]
    with pytest.raises(ValueError, match="full_steps must be a whole number from 1 to 2, got 3"):
        full((0.0, 1.0), 3)


def test_texts_reach_rules_and_slots() -> None:
    ab = build_policy("ab-cache:k=3,interval=4,recursive=true,level=blocks", PARTS)
    assert (ab.rule, ab.slots[0].site) == (Interval(4), WHOLE)
    assert ab.slots[0].stand_in == AdamsBashforth(OPS, 3, recursive=True)
    assert build_policy("ab-cache:interval=2", PARTS).slots[0].site == VELOCITY
    erta = build_policy("ertacache:step_list=0,2,error_scale=0,0.1,0.2", PARTS)
    assert erta.rule == ErrorScaled((0, 2), (0.0, 0.1, 0.2))
    with pytest.raises(Uncalibrated, match=r"ertacache needs errors and scales.*or step_list"):
        build_policy("ertacache", PARTS, step_list=(0, 1))  # a list of a schedule's
    omni = build_policy("omnicache:interval=3,split=0.7,gamma=0.5,cutoff=0.1", PARTS)
    assert omni.rule == EarlyLateInterval(3, 1, 0.7)
    assert omni.slots[0].stand_in == LessNoise((0.5,), 0.1)
    setting = Setting(tuple(shifted(4, 7.0)), 1, 1)
    given = [
        plan.given for plan in build_policy("omnicache:interval=3", PARTS).known_plans(setting)
    ]
    assert given == [(1.0, 0.0)] * 2 + [(0.0, 1.0)] * 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ab-cache:k=4,interval=2", "k must be a whole number from 1 to 3, got 4"),
        ("ab-cache:level=branch,interval=2", "level must be velocity or blocks, got 'branch'"),
        ("ab-cache", r"ab-cache needs step_list, or interval \(warmup_steps\), got neither"),
        ("omnicache:gamma=2,interval=2", "gamma must be a number from 0 to 1, got 2.0"),
        ("omnicache:cutoff=-1,interval=2", "cutoff must be a number from 0 to 1, got -1.0"),
        ("omnicache:split=2,interval=2", "split must be a number from 0 to 1, got 2.0"),
        (
            "ertacache:step_list=0,error_scale=-2",
            "each of error_scale must be a number of at least -1",
        ),
        ("ertacache:error_scale=0", r"or step_list \(error_scale\), got error_scale"),
    ],
)
def test_a_wrong_option_says_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(text, PARTS)
