"""Methods that forecast from full steps: their lists, their bytes and work, bands, and drafts."""

import random
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from torch import Tensor

from cache_draws import CONFIG, EVERY_BRANCH, OPS, Draw, models
from disca_rt.cache import stand_ins
from disca_rt.cache.kept import SampleShape, kept_bytes
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Act, Draft, Measured, Probe, Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.rules.listed import Listed
from disca_rt.cache.rules.speca import SpeCa
from disca_rt.cache.site import Site
from disca_rt.cache.stand_in import Moment, StandIn, StandInDefaults, TensorSpec
from disca_rt.cache.stand_ins.diffusers_taylor import DiffusersTaylor
from disca_rt.cache.stand_ins.foca import FoCa
from disca_rt.cache.stand_ins.freqca import FreqCa
from disca_rt.cache.stand_ins.half_taylor import HalfTaylor
from disca_rt.cache.stand_ins.hyca import HyCa
from disca_rt.cache.stand_ins.kept_elsewhere import KeptElsewhere
from disca_rt.cache.stand_ins.low_modes import LowModes
from disca_rt.cache.stand_ins.polynomial import Differences, Hermite, Taylor
from disca_rt.cache.stand_ins.reuse import Change, OnlyChange, OnlyOutput, Reuse
from disca_rt.cache.stand_ins.scaled_shifted import ScaledShifted
from disca_rt.cache.stand_ins.taylorseer import HiCache, TaylorSeer
from disca_rt.config import MODELS
from disca_rt.sampling.probes import sums
from disca_rt.schedule import shifted
from disca_rt.sharding import Whole
from disca_rt.tokens import StepContext, TokenLayout
from disca_rt.work.flops import PassFlops
from forecast_oracle import low_band

PARTS = Parts(CONFIG, OPS, sketched(CONFIG).predictor)
OURS = (
    "taylorseer",
    "taylorseer-hidden",
    "taylorseer-attention",
    "taylorseer-lite",
    "hicache",
    "hicache:features=hidden",
    "foca",
    "foca:variant=cache-dit,features=hidden",
    "freqca",
    "hyca",
    "half-taylor:interval=2",
    "disca-fed:interval=2",
    "speca",
    "speca:mode=rollback",
)


def full_steps(text: str, steps: int) -> list[int]:
    policy = build_policy(text, PARTS)
    plans = policy.known_plans(Setting(tuple(shifted(steps, 5.0)), 1, len(policy.slots)))
    return [index for index, plan in enumerate(plans) if plan.label == "full"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("taylorseer:disca-n3", 20),
        ("taylorseer:fresh_threshold=3,first_enhance=3,force_last=true", 19),
        ("taylorseer:disca-n6", 11),
        ("taylorseer", 10),
        ("taylorseer:fresh_threshold=3,first_enhance=3", 18),
        ("taylorseer:fresh_threshold=6,first_enhance=3", 10),
        ("hicache", 10),
        ("freqca", 10),
        ("freqca:interval=9", 8),
    ],
)
def test_published_settings_have_their_counts(text: str, count: int) -> None:
    assert len(full_steps(text, 50)) == count


def test_a_forced_last_step_and_an_interval_beyond_the_steps() -> None:
    assert full_steps("taylorseer:fresh_threshold=9,force_last=true", 6) == [0, 5]
    assert full_steps("taylorseer:fresh_threshold=9,first_enhance=4", 3) == [0, 1, 2]
    assert full_steps("taylorseer-attention:cache_interval=1", 7) == list(range(7))
    assert full_steps("taylorseer-attention:disable_cache_after_step=0", 7) == list(range(7))


@pytest.mark.parametrize("text", OURS)
@pytest.mark.parametrize("steps", [1, 2])
def test_one_step_is_full_and_two_are_sampled(text: str, steps: int) -> None:
    eager = models()
    policy = build_policy(text, Parts(CONFIG, OPS, eager.predictor))
    sites = tuple(slot.site for slot in policy.slots)
    draw = Draw(policy.rule, sites, policy.slots[0].stand_in, shifted(steps, 3.0), True, 1, 2)
    latents, plans = eager.sample(draw)
    assert plans[0].label == "full"
    assert latents.isfinite().all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("taylorseer:max_order=4", "max_order must be a whole number from 0 to 3, got 4"),
        ("taylorseer:spacing=both", "spacing must be true or fixed"),
        ("taylorseer:fresh_threshold=0", "fresh_threshold must be a whole number at least 1"),
        ("taylorseer-lite:taylor_factors_dtype=int8", "must be one of .* or none, got 'int8'"),
        ("taylorseer-lite:disable_cache_before_step=0", "at least 1, got 0"),
        ("hicache:hicache_scale_factor=0", "must be above 0 and at most 1, got 0"),
        ("hicache:features=some", "features must be branches or hidden, got 'some'"),
        ("foca:variant=mine", "variant must be paper or cache-dit"),
        ("freqca:min_order=3", "min_order must be a whole number from 0 to 2, got 3"),
        ("freqca:cutoff_ratio=2", "cutoff_ratio must be from 0 to 1, got 2"),
        ("hyca:solvers=taylor-3", "solvers must be of .*, got 'taylor-3'"),
        ("disca-fed:interval=2,forecast=none", "forecast must be half-taylor or taylor"),
        ("speca:mode=back", "mode must be next or rollback"),
        ("speca:base_threshold=-1", "base_threshold must be at least 0, got -1"),
        ("speca:max_taylor_steps=0", "max_taylor_steps must be a whole number at least 1"),
    ],
)
def test_a_wrong_option_says_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(text, PARTS)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("taylorseer:max_order=0", 80),
        ("taylorseer", 160),
        ("hicache:max_order=2", 240),
        ("foca", 240),
        ("speca", 160),
        ("taylorseer-hidden", 2),
        ("foca:features=hidden", 3),
        ("freqca", 3),
        ("hyca", 4),
        ("half-taylor:interval=2", 2),
        ("disca-fed:interval=2", 2),
        ("taylorseer-attention", 120),
    ],
)
def test_what_the_13b_model_keeps_in_tensors_of_all_tokens(text: str, units: int) -> None:
    config = MODELS["hunyuan-video"]
    policy = build_policy(text, Parts(config, OPS, sketched(config).predictor))
    placed = config, torch.bfloat16, torch.device("cpu")
    shape = SampleShape(*placed, (1, 16, 33, 88, 88), 63888, ((63888, 256),))
    unit = (63888 + 256) * config.hidden * 2
    assert kept_bytes(policy, shape).device == units * unit


def test_solvers_that_do_not_fit_the_channels_are_refused() -> None:
    eager = models()
    odd = HyCa(OPS, ("reuse", "taylor-1", "reuse"))
    with pytest.raises(ValueError, match="as many as the 32 channels, or a divisor of it, got 3"):
        eager.sample(Draw(Listed((0,)), Site("blocks", 0, 4), odd, shifted(2, 3.0), False, 1, 0))


def test_a_forecast_costs_nothing_and_a_check_one_block() -> None:
    config = MODELS["hunyuan-video"]
    policy = build_policy("speca:min_taylor_steps=1", Parts(config, OPS))
    flops = PassFlops(config, (16, 33, 88, 88), 256)
    full, draft, checked = (
        flops.planned(policy, StepPlan((acts,)), 0)
        for acts in (
            (Act.KEEP, Act.KEEP),
            (Act.STAND_IN, Act.STAND_IN),
            (Act.CHECK, Act.STAND_IN),
        )
    )
    last = config.double + config.single - 1
    whole, modulation = flops.block(last), flops.block(last, policy.slots)
    assert checked - draft == whole - modulation
    assert draft < 0.001 * full


# Bands of FreqCa.

GRIDS = [(3, 4, 5), (1, 6, 6), (2, 2, 2), (1, 1, 7)]


@pytest.mark.parametrize("transform", ["FFT", "DCT"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_low_modes_are_the_transforms_on_one_rank_and_on_two(
    grid: tuple[int, int, int], ratio: float, transform: str
) -> None:
    count = grid[0] * grid[1] * grid[2]
    tokens = torch.randn(2, count, 3, generator=torch.Generator().manual_seed(0))
    stand_in = FreqCa(OPS, decompose_method=transform, cutoff_ratio=ratio)
    expected = tokens - low_band(stand_in, tokens, grid)
    modes, layout = LowModes(transform, ratio), TokenLayout(count, None, grid=grid)
    alone = tokens.clone()
    modes.remove(alone, layout, Whole())
    assert torch.allclose(alone, expected, atol=1e-5)
    shares = tokens.tensor_split([count // 3], dim=1)
    layouts = [layout._replace(start=start) for start in (0, count // 3)]
    weights = [modes.weights(*each) for each in zip(shares, layouts, strict=True)]

    @dataclass
    class Both(Whole):
        size = 2

        def total(self, sums: Tensor) -> Tensor:
            return weights[0] + weights[1]

    for share, its, whole in zip(
        shares, layouts, expected.tensor_split([count // 3], dim=1), strict=True
    ):
        of_rank = share.clone()
        modes.remove(of_rank, its, Both())
        assert torch.allclose(of_rank, whole, atol=1e-5)


def test_factors_of_a_narrower_dtype_are_rounded_and_nothing_else_is() -> None:
    stand_in = DiffusersTaylor(OPS, 1, "bfloat16")
    context = StepContext(torch.zeros(1, 4), *torch.zeros(2, 1, 1), TokenLayout(3, None))
    values = torch.randn(3, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    kept, at = (torch.zeros(2, 1, 3, 4, dtype=torch.bfloat16),), ()
    for step, value in enumerate(values[:2]):
        numbers = torch.tensor(stand_in.numbers(at, 3 * step, ()))
        stand_in.keep(kept, value, Moment(None, context, numbers, Whole()))
        at = (*at, 3 * step)
    numbers = torch.tensor(stand_in.numbers(at, 5, ()))
    found = stand_in.value(kept, Moment(None, context, numbers, Whole()))
    first, second = values[0].bfloat16().float(), values[1]
    slope = ((second - first) / 3).bfloat16().float()
    assert torch.equal(found, second.bfloat16().float() + 2 * slope)


# Drafts of SpeCa.


def authors_list(rule: SpeCa, errors: list[float]) -> list[int]:
    """The authors' loop (cal_type.py), on the error that each step's draft would have."""
    full, counter, last_error, last_type = [], 0, 0.0, "None"
    for step in range(len(errors)):
        if last_type == "full":
            kind, counter, last_error = "draft", 1, None
        else:
            threshold = rule.base_threshold * rule.decay_rate ** (step / len(errors))
            threshold = max(threshold, rule.min_threshold)
            is_checked = counter >= rule.min_taylor_steps
            too_large = last_error is not None and last_error > threshold
            if (
                step < rule.first_enhance
                or counter >= rule.max_taylor_steps
                or (too_large and is_checked)
            ):
                kind, counter = "full", 0
            else:
                kind, counter = "draft", counter + 1
        if kind == "full":
            full.append(step)
        else:
            last_error = errors[step]
        last_type = kind
    return full


def decided(rule: SpeCa, errors: list[float]) -> tuple[list[int], list[int]]:
    """Full steps and checked ones of our rule, each draft having its step's error."""
    setting = Setting(tuple(shifted(len(errors), 3.0)), 2, 2)
    memory, full, checked = rule.start(setting), [], []
    (probe,) = rule.probes
    for step in setting.steps:
        error = errors[step.index] ** (1 if rule.error_metric == "relative_l1" else 2)
        seen: dict[Probe, Measured] = {}
        answer = rule.decide(setting, step, seen, memory)
        if isinstance(answer, Draft):
            seen[probe] = Measured(error, 1.0)
            checked.append(step.index)
            answer = rule.decide(setting, step, seen, memory)
        elif answer.watch:
            seen[probe] = Measured(error, 1.0)
            checked.append(step.index)
        full += [step.index] * (answer.label == "full")
        memory = rule.remember(setting, step, answer, seen, memory)
    return full, checked


@pytest.mark.parametrize("seed", range(40))
def test_verdicts_about_the_next_step_are_the_authors(seed: int) -> None:
    draw = random.Random(seed)
    rule = SpeCa(
        base_threshold=draw.choice([0.0, 0.3, 1.0, 3.0, float("inf")]),
        decay_rate=draw.choice([0.1, 0.5, 1.0]),
        min_taylor_steps=draw.randint(1, 5),
        max_taylor_steps=draw.randint(1, 8),
        first_enhance=draw.randint(1, 5),
        error_metric=draw.choice(["relative_l1", "norm"]),
    )
    errors = [draw.uniform(0, 2) for _ in range(draw.choice([1, 2, 30]))]
    full, checked = decided(rule, errors)
    assert full == authors_list(rule, errors)
    assert not {*checked} & {*full}
    assert len(errors) - 1 not in checked, "its verdict would be of no step"


@pytest.mark.parametrize("seed", range(20))
def test_a_draft_that_is_rolled_back_is_a_full_step(seed: int) -> None:
    draw = random.Random(seed)
    low, high = draw.randint(1, 3), draw.randint(2, 6)
    rule = SpeCa(0.8, 0.3, 0.2, low, high, draw.randint(1, 3), mode="rollback")
    errors = [draw.uniform(0, 1.5) for _ in range(25)]
    expected: list[int] = []
    drafts = 0
    for step, error in enumerate(errors):
        is_early = step == 0 or step < rule.first_enhance
        threshold = max(0.8 * 0.3 ** (step / 25), 0.2)
        refused = drafts + 1 >= low and error > threshold
        if is_early or drafts >= high or refused:
            expected.append(step)
            drafts = 0
        else:
            drafts += 1
    assert decided(rule, errors)[0] == expected


@pytest.mark.parametrize("text", ["speca:mode=rollback,", "speca:"])
def test_thresholds_of_zero_and_infinity(text: str) -> None:
    none = build_policy(f"{text}base_threshold=0,min_threshold=0,min_taylor_steps=1", PARTS).rule
    every = build_policy(f"{text}base_threshold=inf,max_taylor_steps=99", PARTS).rule
    errors = [0.5] * 9
    assert decided(every, errors)[0] == [0]
    full = list(range(9)) if none.mode == "rollback" else [0, 2, 4, 6, 8]
    assert decided(none, errors)[0] == full


@pytest.mark.parametrize("joined", ["speca", "speca+taylor", "speca+disca", "speca+reuse"])
def test_drafts_of_any_stand_in_that_are_all_refused_leave_no_trace(joined: str) -> None:
    eager = models()
    first, _, second = joined.partition("+")
    text = f"{first}:mode=rollback,base_threshold=0,min_threshold=0,min_taylor_steps=1"
    parts = Parts(CONFIG, OPS, eager.predictor)
    policy = build_policy("+".join([text, *([second] * bool(second))]), parts)
    sites = tuple(slot.site for slot in policy.slots)
    draw = Draw(policy.rule, sites, policy.slots[0].stand_in, shifted(5, 3.0), True, 2, 1)
    latents, plans = eager.sample(draw)
    assert [plan.label for plan in plans] == ["full"] * 5
    always = draw._replace(rule=Listed(tuple(range(5))))
    assert torch.equal(latents, eager.sample(always)[0])


def test_the_error_is_of_the_last_block_on_the_drafts_input() -> None:
    """One draft after two full steps, on a model that ends in single blocks."""
    eager = models()
    seen: list[float] = []

    class Noting(SpeCa):
        def remember(self, setting, step, plan, measured, memory):
            seen.extend(each.ratio for each in measured.values())
            return super().remember(setting, step, plan, measured, memory)

    rule = Noting(float("inf"), min_taylor_steps=1)
    policy = build_policy("speca", PARTS)
    sites = tuple(slot.site for slot in policy.slots)
    draw = Draw(rule, sites, policy.slots[0].stand_in, shifted(3, 3.0), False, 1, 1)
    totals: list[Tensor] = []
    last = eager.denoiser.dit.single_blocks[-1]
    original = last._in_branches

    def noting(*inputs):
        total = original(*inputs)
        totals.append(total.double().clone())
        return total

    last._in_branches = noting
    try:
        eager.sample(draw)
    finally:
        del last._in_branches
    kept, computed = totals[0], totals[1]  # step 2 is the last: nobody would use its error
    assert len(totals) == 2
    expected = ((kept - computed).abs() / (computed.abs() + 1e-8)).mean().item()
    assert seen == pytest.approx([expected], rel=1e-4)


def test_padding_text_is_no_part_of_an_error() -> None:
    layout = TokenLayout(4, torch.tensor([6, 7]), start=0)
    context = StepContext(torch.zeros(2, 1), *torch.zeros(2, 1, 1), layout)
    now, before = torch.rand(2, 2, 3, 5) + 1
    pair = sums(Probe("slot", "stand-in"), now, before, context, is_text=True)
    rows = [(now[0, :2], before[0, :2]), (now[1], before[1])]
    expected = sum((a - b).abs().sum() for a, b in rows), sum(b.abs().sum() for _, b in rows)
    assert torch.allclose(pair, torch.stack(expected).double())


def test_a_model_without_single_blocks_is_checked_on_its_last_double_block() -> None:
    config = MODELS["hunyuan-video-1.5"]
    policy = build_policy("speca", Parts(config, OPS))
    blocks = config.double + config.single
    assert [(slot.site.start, slot.site.stop) for slot in policy.slots] == [
        (blocks - 1, blocks),
        (0, blocks - 1),
    ]
    one = build_policy("speca", Parts(replace(CONFIG, double=1, single=0), OPS))
    assert [slot.site for slot in one.slots] == [Site("branch", 0, 1, EVERY_BRANCH)]


LATE = (
    Reuse(),
    OnlyOutput(),
    Taylor(OPS, 2),
    Hermite(OPS, 2),
    TaylorSeer(OPS, 2),
    HiCache(OPS, 2),
    DiffusersTaylor(OPS, 2),
    HalfTaylor(OPS),
    FoCa(OPS),
    FreqCa(OPS),
    Change(),
    OnlyChange(),
    ScaledShifted(),
)
"""Stand-ins whose value may be a sum of what they keep, one of each class."""


def test_every_class_with_terms_is_among_them() -> None:
    names = [each.name for each in iter_modules(stand_ins.__path__)]
    modules = [import_module(f"{stand_ins.__name__}.{name}") for name in names]
    found = {
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type)
        and getattr(each, "terms", None) not in (None, StandInDefaults.terms)
    }
    assert found - {Differences, KeptElsewhere, StandIn} == {type(each) for each in LATE}


@pytest.mark.parametrize("stand_in", LATE, ids=lambda each: type(each).__name__)
def test_terms_add_up_to_the_value(stand_in: StandIn) -> None:
    generator = torch.Generator().manual_seed(0)
    like = TensorSpec((1, 4, 6), torch.float32, torch.device("cpu"))
    kept = tuple(torch.randn(spec.shape, generator=generator) for spec in stand_in.kept_specs(like))
    numbers = torch.tensor(stand_in.numbers((0, 2, 4), 6, ()))
    at = Moment(torch.zeros(1, 4, 6), None, numbers)
    terms = stand_in.terms(kept, at)
    assert terms.stays == (getattr(stand_in, "form", None) != "delta")
    weights = torch.ones(1) if terms.weights is None else terms.weights
    value = torch.einsum("k,k...->...", weights, terms.tensors)
    torch.testing.assert_close(value, stand_in.value(kept, at))
