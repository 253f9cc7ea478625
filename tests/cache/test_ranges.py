"""Methods that replace ranges of blocks: DBCache and the others of `cache/methods/ranges.py`."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cache_draws import CONFIG, CPU, SCALE, Draw, models
from disca_rt.cache.adjustment_file import write_adjustment
from disca_rt.cache.kept import SampleShape, kept_bytes
from disca_rt.cache.method import Parts
from disca_rt.cache.methods.ranges import METHODS as RANGES
from disca_rt.cache.plan import Act, Ask, Measured, Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.ranges import middles
from disca_rt.cache.rules.dbcache import DBCache
from disca_rt.cache.rules.deepcache import around
from disca_rt.cache.stand_in import Moment, TensorSpec
from disca_rt.cache.stand_ins.foca import FoCa
from disca_rt.cache.stand_ins.polynomial import Taylor
from disca_rt.cache.stand_ins.prior_noise import PriorNoise
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.cache.stand_ins.taylorseer import TaylorSeer
from disca_rt.config import DiTConfig
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.kernels.ops import get_ops
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.blocks import run_blocks
from disca_rt.models.build import build_dit
from disca_rt.models.dit import StepInputs
from disca_rt.models.stream import PendingSum, materialise
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.sampling.guidance import Guidance
from disca_rt.sampling.state import known_numbers
from disca_rt.schedule import shifted
from disca_rt.work.flops import PassFlops
from golden_vectors import relative_error
from recorded import record

OPS = get_ops("reference")
VIDEO_10 = DiTConfig()
EMBEDDED = DiTConfig(double=1, single=16)
PROFILED = (0, 1), (2, 3), (4, 8), (10, 22), (23, 24), (25, 28), (31, 32), (33, 34)


def setting(policy, steps: int, passes: int = 1) -> Setting:
    return Setting(tuple(shifted(steps, 3.0)), passes, len(policy.slots))


def decided(rule: DBCache, facts: Setting, changes: Sequence[Sequence[float]]) -> list[list[int]]:
    """The computed steps of each slot of each pass, where `changes[step][pass·slots + slot]`."""
    memory = rule.start(facts)
    computed: list[list[int]] = [[] for _ in range(facts.passes * facts.slots)]
    for step, row in zip(facts.steps, changes, strict=True):
        seen: dict = {}
        while isinstance(answer := rule.decide(facts, step, seen, memory), Ask):
            index = answer.probe.which_pass * facts.slots + answer.probe.kept_by
            assert answer.probe not in seen
            seen[answer.probe] = Measured(row[index], 1.0)
        assert isinstance(answer, StepPlan)
        for probe in rule.probes:  # as a sampler measures them where something is kept
            seen.setdefault(
                probe, Measured(row[probe.which_pass * facts.slots + probe.kept_by], 1.0)
            )
        memory = rule.remember(facts, step, answer, seen, memory)
        for index, act in enumerate(itertools.chain(*answer.passes)):
            computed[index] += [step.index] if act == Act.KEEP else []
    return computed


CHANGES = torch.rand(20, 4, generator=torch.Generator().manual_seed(3)).mul(0.2).tolist()
OPTIONS = [
    {},
    {"residual_diff_threshold": 0.3},
    {"residual_diff_threshold": 1.0},
    {"residual_diff_threshold": 0.0},
    {"max_warmup_steps": 9, "warmup_interval": 3},
    {"max_cached_steps": 5},
    {"max_continuous_cached_steps": 2, "residual_diff_threshold": 0.15},
    {"max_accumulated_residual_diff_threshold": 0.7},
    {"max_accumulated_residual_diff_threshold": 0.9, "max_warmup_steps": 8, "max_cached_steps": 4},
    {"steps_computation_mask": (1, 1, 0, 0, 0, 1, 0, 0)},
    {"steps_computation_mask": (1, 1, 0, 0, 0, 1, 0, 0), "steps_computation_policy": "static"},
    {"steps_computation_mask": (1, 0), "max_continuous_cached_steps": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("separate", [True, False])
def test_dbcache_decides_as_cache_dit_on_the_same_changes(options: dict, separate: bool) -> None:
    contexts = pytest.importorskip("cache_dit.caching.cache_contexts.cache_manager")
    configs = pytest.importorskip("cache_dit.caching.cache_contexts.cache_config")
    given = {"residual_diff_threshold": 0.1, "max_warmup_steps": 2} | options
    rule = DBCache(VIDEO_10, **given, cfg_diff_compute_separate=separate)
    ours = decided(rule, Setting(tuple(shifted(20, 3.0)), 2, 2), CHANGES)
    for slot in range(2):
        manager = contexts.CachedContextManager("tested")
        config = configs.DBCacheConfig(
            **{k: list(v) if isinstance(v, tuple) else v for k, v in given.items()},
            enable_separate_cfg=True,
            cfg_diff_compute_separate=separate,
        )
        manager.new_context(name="blocks", cache_config=config)
        theirs: list[list[int]] = [[], []]
        for step, number in itertools.product(range(20), range(2)):
            manager.set_context("blocks")
            manager.mark_step_begin()
            residual = torch.tensor([1.0 + CHANGES[step][2 * number + slot]])
            if manager.can_cache(residual, prefix="Fn_residual"):
                manager.add_cached_step()
            else:  # the kept residual is 1, so that each change is the next one's diff
                manager.set_Fn_buffer(torch.ones(1), prefix="Fn_residual")
                theirs[number].append(step)
        assert [ours[slot], ours[2 + slot]] == theirs


def test_dbcache_keeps_apart_what_double_and_single_blocks_decide() -> None:
    policy = build_policy("dbcache:Fn_compute_blocks=8,Bn_compute_blocks=2", Parts(VIDEO_10, OPS))
    assert [(each.site.start, each.site.stop) for each in policy.slots] == [(8, 18), (28, 58)]
    probes = policy.probes(1)
    assert [(probe.since, probe.after) for probe in probes] == [(0, 8), (20, 28)]
    assert len(policy.probes(2)) == 4
    single = build_policy("dbcache", Parts(EMBEDDED, OPS))
    assert [(each.site.start, each.site.stop) for each in single.slots] == [(9, 17)]
    one = build_policy("dbcache", Parts(DiTConfig(double=54, single=0), OPS))
    assert [(each.site.start, each.site.stop) for each in one.slots] == [(8, 54)]


def test_a_static_mask_is_known_before_the_run() -> None:
    mask = "steps_computation_mask=1,1,0,0,1,steps_computation_policy=static"
    policy = build_policy(f"dbcache:{mask}", Parts(VIDEO_10, OPS))
    plans = policy.known_plans(setting(policy, 7))
    assert [plan.label == "full" for plan in plans] == [
        True,
        True,
        False,
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dbcache:Fn_compute_blocks=0", "Fn_compute_blocks must be a whole number at least 1"),
        ("dbcache:Fn_compute_blocks=39,Bn_compute_blocks=1", "must be below 40"),
        ("dbcache:steps_computation_mask=0,1", "begin with 1"),
        ("dbcache:steps_computation_mask=1,2", "ones and zeros"),
        ("dbcache:steps_computation_policy=fixed", "dynamic or static"),
        ("dbcache:residual_diff_threshold=nan", "must be a number"),
        ("dbcache:calibrator=dmd", "calibrator must be"),
        ("dbcache:calibrator=foca,taylorseer_order=1", "drop one"),
        ("fbcache:threshold=-1", "threshold must be a number of at least 0"),
    ],
)
def test_options_that_mean_nothing_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_policy(text, Parts(VIDEO_10, OPS))
    assert "\n" not in str(caught.value)


VALUES = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))


def forecasts(stand_in, kept_at: Sequence[int]) -> list[torch.Tensor]:
    """The values of steps 0 to 23 by a stand-in that kept `VALUES` at the steps `kept_at`."""
    spec = TensorSpec((5,), torch.float32, torch.device("cpu"))
    buffers = tuple(each.zeros() for each in stand_in.kept_specs(spec))
    done: tuple[int, ...] = ()
    values = []
    for step, value in enumerate(VALUES):
        at = Moment(None, None, torch.tensor(stand_in.numbers(done, step, ())))
        if step in kept_at:
            stand_in.keep(buffers, value, at)
            done = (*done, step)
        values.append(value if step in kept_at else stand_in.value(buffers, at))
    return values


@pytest.mark.parametrize("kept_at", [(0, 4), (0, 1, 2, 5, 6, 12, 13), (0, 9, 10, 11)])
@pytest.mark.parametrize("order", [None, 0, 1, 2, 3])
def test_calibrators_are_cache_dits(order: int | None, kept_at: tuple[int, ...]) -> None:
    module = "cache_dit.caching.cache_contexts.calibrators."
    if order is None:
        theirs, ours = pytest.importorskip(module + "foca").FoCaState(), FoCa(OPS, "cache-dit")
    else:
        state = pytest.importorskip(module + "taylorseer").TaylorSeerState
        theirs, ours = state(n_derivatives=order), TaylorSeer(OPS, order, first_enhance=4)
    for step, value in enumerate(forecasts(ours, kept_at)):
        if step:  # their state is made by the first update, after the step has begun
            theirs.mark_step_begin()
        if step in kept_at:
            theirs.update(VALUES[step].clone())
        else:
            assert torch.allclose(value, theirs.approximate(), rtol=1e-4, atol=1e-4), step


SMALL = replace(CONFIG, double=3, single=4)
STEPS = 12


@pytest.fixture(scope="module")
def small() -> Denoiser:
    dit = build_dit(SMALL, ops=OPS, attention=None, device=CPU, dtype=torch.float32)
    fill_randomly(dit, 0)
    return Denoiser(dit)


DRAW = Draw(None, (), None, shifted(STEPS, 3.0), guided=False, batch=2, seed=4)


def sampled(small: Denoiser, text: str, guided: bool = False) -> tuple[Tensor, list[StepPlan]]:
    plans: list[StepPlan] = []
    policy = build_policy(text, Parts(SMALL, OPS))
    with torch.no_grad():
        latents = small.denoise(
            DRAW.latents,
            DRAW._replace(guided=guided).conditions,
            schedule=DRAW.schedule,
            policy=policy,
            guidance=Guidance(None, SCALE if guided else None),
            stopwatch=Stopwatch(CPU),
            on_step=lambda event: plans.append(event.plan),
        )
    return latents, plans


Range = tuple[int, int]


class ByHand:
    """The same sample written out: tokens after every block, and ranges that are jumped over."""

    def __init__(self, small: Denoiser, ranges: Sequence[Range], is_delta: bool) -> None:
        self.dit, self.ranges, self.is_delta = small.dit, ranges, is_delta
        self.kept: dict[Range, Tensor] = {}

    def sample(
        self,
        acts: Callable[[int], tuple[Sequence[int], Sequence[int]]],
        after: Callable[[int, dict[int, Tensor]], None] = lambda step, tokens: None,
        noise: float = 0.0,
    ) -> Tensor:
        """`acts(step)` are the numbers of the ranges that stand in, and of those that are kept.

        Steps with t < 500 add `noise` times the latents that the sample began with.
        """
        latents, (condition,) = DRAW.latents, DRAW.conditions
        with torch.no_grad():
            prepared = self.dit.prepare(condition, latents.shape)
            for step in DRAW.schedule:
                times = torch.full((len(latents),), step.t)
                tokens, context = self.dit.embed(latents, StepInputs(times, None, None), prepared)
                stands, keeps = ([self.ranges[i] for i in each] for each in acts(step.index))
                after_blocks = self.walk(tokens, context, stands)
                after(step.index, after_blocks)
                for start, stop in keeps:
                    change = after_blocks[start] if self.is_delta else 0
                    self.kept[start, stop] = after_blocks[stop] - change
                patches = self.dit.head(after_blocks[len(self.dit.blocks)], context).float()
                velocity = self.dit.unpatchify(patches, prepared)
                if step.t < 500:
                    latents = latents + noise * DRAW.latents
                latents = latents + velocity * (step.sigma_next - step.sigma)
        return latents

    def walk(self, tokens: Tensor, context, stands: Sequence[Range]) -> dict[int, Tensor]:
        found, at = {0: tokens}, 0
        while at < len(self.dit.blocks):
            jumps = [stop for start, stop in stands if start == at]
            if jumps:
                kept = self.kept[at, jumps[0]]
                tokens, at = (tokens + kept if self.is_delta else kept), jumps[0]
            else:
                summed = self.dit.blocks[at]((PendingSum(tokens),), context, None)
                tokens, at = materialise(summed, OPS), at + 1
            found[at] = tokens
        return found


@pytest.mark.parametrize(
    ("text", "range_", "is_delta", "full"),
    [
        ("delta-dit", (3, 7), True, [0, 5, 10]),
        ("delta-dit:N8", (3, 7), True, [0, 8]),
        ("delta-dit:cached_blocks=5,interval=3", (2, 7), True, [0, 3, 6, 9]),
        ("blockdance", (0, 3), False, [0, 1, 2, 3, 4, 8]),
        ("blockdance:index=4,interval=3,full_share=0.2", (0, 5), False, [0, 1, 2, 5, 8, 11]),
        ("blockdance-ada:rho=9,reuse=1,0,1", (0, 3), False, [*range(9), 10]),
        ("deepcache", (1, 6), False, [0, 3, 6, 9]),
        ("deepcache:cache_branch_id=1,cache_interval=5", (2, 5), False, [0, 5, 10]),
        ("fasterdiffusion:prior_noise=0", (0, 3), False, [0, 1, 2, 3, 6, 8]),
        ("fasterdiffusion:mod=4,prior_noise=0", (0, 3), False, [0, 4, 8]),
        ("fasterdiffusion:key_steps=0,7,prior_noise=0", (0, 3), False, [0, 7]),
    ],
)
def test_one_range_is_replaced_between_full_steps(
    text: str, range_: Range, is_delta: bool, full: list[int], small: Denoiser
) -> None:
    latents, plans = sampled(small, text)
    assert [i for i, plan in enumerate(plans) if plan.label == "full"] == full
    hand = ByHand(small, [range_], is_delta)
    expected = hand.sample(lambda step: ((), (0,)) if step in full else ((0,), ()))
    assert relative_error(latents, expected) <= 1e-5


@pytest.mark.parametrize("option", ["", ":prior_noise=0.05", ":prior_noise=0"])
def test_faster_diffusion_adds_prior_noise_in_late_steps(option: str, small: Denoiser) -> None:
    """0.003 by default, as in the authors' code, at t < 500 of 1000."""
    latents, plans = sampled(small, f"fasterdiffusion{option}")
    noise = float(option.partition("=")[2] or 0.003)
    late = [step.index for step in DRAW.schedule if step.t < 500]
    assert 0 < len(late) < STEPS
    keys = [0, 1, 2, 3, 6, 8]
    assert [i for i, plan in enumerate(plans) if plan.label == "full"] == keys
    hand = ByHand(small, [(0, 3)], False)
    expected = hand.sample(lambda step: ((), (0,)) if step in keys else ((0,), ()), noise=noise)
    assert relative_error(latents, expected) <= 1e-5
    without = hand.sample(lambda step: ((), (0,)) if step in keys else ((0,), ()))
    assert (relative_error(latents, without) > 1e-4) == (noise > 0)


def test_prior_noise_stays_in_a_combination() -> None:
    """The slot computes the velocity and changes it, which a forecast cannot do."""
    front, last = build_policy("fasterdiffusion+taylor:order=1", Parts(SMALL, OPS)).slots
    assert (front.site.level, front.stand_in) == ("blocks", Taylor(OPS, 1))
    assert (last.site.level, last.stand_in) == ("velocity", PriorNoise())
    (alone,) = build_policy("fasterdiffusion:prior_noise=0+taylor:order=1", Parts(SMALL, OPS)).slots
    assert alone == front
    with pytest.raises(ValueError, match="taylor takes no place of ras, all of which compute row"):
        build_policy("ras+taylor:order=1", Parts(SMALL, OPS))


@pytest.mark.parametrize("cached", [3, 5])
def test_delta_dit_skips_back_blocks_early_and_front_blocks_late(
    cached: int, small: Denoiser
) -> None:
    """Also where the two ranges overlap."""
    latents, _ = sampled(small, f"delta-dit:interval=4,bound=6,cached_blocks={cached}")
    hand = ByHand(small, [(7 - cached, 7), (0, cached)], True)
    expected = hand.sample(
        lambda step: ((), (0, 1)) if step % 4 == 0 else ((0,) if step < 6 else (1,), ())
    )
    assert relative_error(latents, expected) <= 1e-5


def test_profilingdit_computes_double_and_single_blocks_in_their_own_steps(small: Denoiser) -> None:
    options = "step_start=2,step_interval=3,step_cache_list=2,6,9,block_start_double=1"
    text = f"profilingdit:{options},num_blocks_double=2,block_cache_list_foreground=0,2,3"
    latents, plans = sampled(small, text)
    hand = ByHand(small, [(1, 3), (3, 4), (5, 7)], True)

    def acts(step: int) -> tuple[list[int], list[int]]:
        if step < 2:
            return [], []
        kept = [0] * ((step - 2) % 3 == 0) + [1, 2] * (step in (2, 6, 9))
        return [i for i in range(3) if i not in kept], kept

    assert relative_error(latents, hand.sample(acts)) <= 1e-5
    assert [i for i, plan in enumerate(plans) if plan.label == "full"] == [0, 1, 2]


def test_block_caching_refreshes_a_block_before_its_changes_are_too_large(small: Denoiser) -> None:
    curves = torch.rand(STEPS, 7, generator=torch.Generator().manual_seed(2)).mul(0.2)
    values = ",".join(f"{each:.4f}" for each in curves.flatten().tolist())
    latents, _ = sampled(small, f"block-caching:delta=0.3,curves={values}")
    since = [0.0] * 7

    def acts(step: int) -> tuple[list[int], list[int]]:
        kept = []
        for block in range(7):
            since[block] += round(curves[step, block].item(), 4)
            if step == 0 or since[block] > 0.3:
                kept.append(block)
                since[block] = 0.0
        return [block for block in range(7) if block not in kept], kept

    hand = ByHand(small, [(block, block + 1) for block in range(7)], True)
    assert relative_error(latents, hand.sample(acts)) <= 1e-5


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random scales and shifts of each step, block and channel, for a random table."""
    numbers = torch.Generator().manual_seed(0)
    shape = STEPS, 7, SMALL.hidden
    computed = torch.rand(STEPS, 7, generator=numbers) > 0.5
    computed[0] = True
    scale, shift = (0.2 * torch.randn(shape, generator=numbers) for _ in range(2))
    tensors = {"computed": computed, "scale": 1 + scale, "shift": shift}
    path = tmp_path_factory.mktemp("adjusted") / "adjusted.safetensors"
    write_adjustment(path, tensors, SMALL)
    return path


@pytest.mark.parametrize("guided", [False, True])
def test_block_caching_scales_and_shifts_a_blocks_change(
    guided: bool, adjusted: Path, small: Denoiser
) -> None:
    latents, plans = sampled(small, f"block-caching:scale_shift={adjusted}", guided)
    learned, dit = load_file(adjusted), small.dit
    table = learned["computed"] > 0
    assert [[act is Act.KEEP for act in plan.passes[0]] for plan in plans] == table.tolist()
    by_hand, changes = DRAW.latents, {}
    with torch.no_grad():
        conditions = DRAW._replace(guided=guided).conditions
        prepared = [dit.prepare(each, by_hand.shape) for each in conditions]
        for step in DRAW.schedule:
            t, velocities = torch.tensor([step.t] * 2), []
            for number, each in enumerate(prepared):
                tokens, context = dit.embed(by_hand, StepInputs(t, None, None), each)
                for block, module in enumerate(dit.blocks):
                    before, place = tokens, (number, block)
                    if table[step.index, block]:
                        tokens = run_blocks([module], tokens, context)
                        changes[place] = tokens - before
                    else:
                        scale, shift = (learned[n][step.index, block] for n in ("scale", "shift"))
                        tokens = before + scale * changes[place] + shift
                velocities.append(dit.velocity(tokens, context, each))
            velocity = velocities[0]
            if guided:
                velocity = velocities[1] + SCALE * (velocities[0] - velocities[1])
            by_hand = by_hand + velocity * (step.sigma_next - step.sigma)
    assert relative_error(latents, by_hand) <= 1e-5
    dit = Denoiser(small.dit, GraphRunner(CPU, record))
    for _ in range(3):
        captured, _ = sampled(dit, f"block-caching:scale_shift={adjusted}", guided)
        assert relative_error(captured, latents) <= 1e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale_shift={},delta=0.3", r"needs curves \(delta\), or scale_shift=FILE, got"),
        ("scale_shift={},form=output", "scale_shift goes with form=delta, got output; drop one"),
        ("scale_shift=nowhere", "nowhere cannot be read as a file of scales and shifts"),
    ],
)
def test_an_adjustment_goes_with_its_table(text: str, message: str, adjusted: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_policy(f"block-caching:{text.format(adjusted)}", Parts(SMALL, OPS))


def test_an_adjustment_goes_with_other_rules_up_to_its_last_step(
    adjusted: Path, small: Denoiser
) -> None:
    text = f"reuse:interval=3+block-caching:scale_shift={adjusted}"
    latents, plans = sampled(small, text)
    assert latents.isfinite().all()
    assert [plan.label for plan in plans[:3]] == ["full", "predicted", "predicted"]
    policy = build_policy(text, Parts(SMALL, OPS))
    with pytest.raises(ValueError, match="is for 12 steps, got 13; sample with as many"):
        known_numbers(policy, policy.known_plans(setting(policy, 13)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("steps", "is for 5 steps, got 12; sample with as many"),
        ("first", "must be 1 in the first step: nothing is kept before"),
        ("width", r"shift of .* must be \[12, 7, 32\] for this model, got \[12, 7, 8\]"),
    ],
)
def test_an_adjustment_of_another_model_is_refused(
    wrong: str, message: str, adjusted: Path, tmp_path: Path, small: Denoiser
) -> None:
    learned = load_file(adjusted)
    if wrong == "steps":
        learned = {name: each[:5] for name, each in learned.items()}
    elif wrong == "first":
        learned["computed"][0, 3] = 0
    else:
        learned["shift"] = learned["shift"][:, :, :8]
    path = tmp_path / "other.safetensors"
    write_adjustment(path, learned, SMALL)
    with pytest.raises(ValueError, match=message):
        sampled(small, f"block-caching:scale_shift={path}")


@pytest.mark.parametrize(
    "options", ["warmup=3,recalculate=3,threshold=1", "warmup=4,recalculate=4,threshold=1.2"]
)
def test_foresight_reuses_up_to_the_last_block_that_changed_little(
    options: str, small: Denoiser
) -> None:
    latents, plans = sampled(small, f"foresight:{options}")
    given = dict(pair.split("=") for pair in options.split(","))
    warmup, every = int(given["warmup"]), int(given.get("recalculate", 2))
    gamma = float(given.get("threshold", 0.5))
    hand = ByHand(small, [(0, block + 1) for block in range(7)], False)
    changes, allowed, valid = [0.0] * 7, [0.0] * 7, valid_rows(small)

    def reused(step: int) -> int:
        if step < warmup or step % every == 0:
            return -1
        return max((b for b in range(7) if changes[b] <= allowed[b]), default=-1)

    def acts(step: int) -> tuple[list[int], list[int]]:
        last = reused(step)
        kept = list(range(last + 1, 7)) if step >= warmup - 2 else []
        stands.append(last)
        return [last] if last >= 0 else [], kept

    def measure(step: int, tokens: dict[int, Tensor]) -> None:
        for block in range(stands[-1] + 1, 7) if step >= warmup - 1 else ():
            difference = (tokens[block + 1] - hand.kept[0, block + 1]).double()
            changes[block] = (difference.square() * valid).mean().item()
        if step == warmup - 1:
            allowed[:] = [gamma * change for change in changes]

    stands: list[int] = []
    expected = hand.sample(acts, measure)
    assert len(set(stands)) > 2, "blocks are told apart"
    ours = [
        acts.index(Act.STAND_IN) if Act.STAND_IN in acts else -1
        for (acts,) in (p.passes for p in plans)
    ]
    assert ours == stands
    assert relative_error(latents, expected) <= 1e-5


def valid_rows(small: Denoiser) -> Tensor:
    """A mask `[B, S, 1]` of joint rows that are no padding: the second text is one row shorter."""
    image = DRAW.latents[0, 0].numel() // 4
    texts = DRAW.conditions[0].text_mask.bool()
    return torch.cat([torch.ones(len(texts), image, dtype=torch.bool), texts], 1)[..., None]


def numpys_list(steps: int, count: int, center: int, power: float) -> list[int]:
    """DeepCache's list by numpy, from the formula; empty where no power fits."""
    while power > 1:
        roots = np.linspace((-center) ** (1 / power), (steps - center) ** (1 / power), count + 1)
        whole = np.unique(np.trunc(np.real(roots**power)).astype(int))
        found = [0] + [int(each) + center for each in whole[1:-1]]
        if len(found) == count:
            return found
        power -= 0.02
    return []


@pytest.mark.parametrize(("steps", "interval"), [(50, 5), (50, 3), (50, 10), (20, 4)])
@pytest.mark.parametrize("center", [4, 10, 15])
@pytest.mark.parametrize("power", [1.2, 1.4])
def test_deepcaches_uneven_list_is_dense_around_its_centre(
    steps: int, interval: int, center: int, power: float
) -> None:
    expected = numpys_list(steps, -(-steps // interval), center, power)
    if not expected:
        with pytest.raises(ValueError, match="center must leave room"):
            around(steps, -(-steps // interval), center, power)
    else:
        assert list(around(steps, -(-steps // interval), center, power)) == expected


def test_delta_dit_counts_and_costs_are_discas() -> None:
    """10 and 7 full of 50 steps, 20 of 60 blocks else; one tensor of S·C is kept."""
    shape = (16, 33, 88, 88)
    for preset, full in (("N5", 10), ("N8", 7)):
        policy = build_policy(f"delta-dit:{preset}", Parts(VIDEO_10, OPS))
        plans = policy.known_plans(setting(policy, 50))
        assert sum(plan.label == "full" for plan in plans) == full
        work = PassFlops(VIDEO_10, shape, 256)
        each = [work.planned(policy, plan, 0) for plan in plans]
        assert each[1] == work.ends + sum(map(work.block, range(20)))
        assert sum(each) == full * each[0] + (50 - full) * each[1]
    tokens = SampleShape(VIDEO_10, torch.bfloat16, CPU, (1, *shape), 63888, ((63888, 256),))
    assert kept_bytes(policy, tokens).device == (63888 + 256) * 3072 * 2


@pytest.mark.parametrize(
    ("text", "config", "sites"),
    [
        ("delta-dit", DiTConfig(double=54, single=0), [(18, 54)]),
        ("delta-dit", EMBEDDED, [(1, 17)]),
        ("blockdance", VIDEO_10, [(0, 21)]),
        ("blockdance", DiTConfig(double=54, single=0), [(0, 19)]),
        ("profilingdit", VIDEO_10, [(6, 20), *((20 + a, 20 + b) for a, b in PROFILED)]),
        ("profilingdit", DiTConfig(double=54, single=0), [(17, 54)]),
        ("profilingdit", EMBEDDED, [(1, 10), (11, 13)]),
        ("fasterdiffusion:prior_noise=0", VIDEO_10, [(0, 30)]),
    ],
)
def test_ranges_go_to_other_models_by_proportion(
    text: str, config: DiTConfig, sites: list[Range]
) -> None:
    policy = build_policy(text, Parts(config, OPS))
    assert [(each.site.start, each.site.stop) for each in policy.slots] == sites


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("guided", [False, True])
def test_every_method_samples_with_one_pass_and_with_two(
    name: str, guided: bool, small: Denoiser
) -> None:
    text = {
        "blockdance-ada": "blockdance-ada:rho=6,reuse=0,1,1,1,1,1",
        "block-caching": f"block-caching:delta=0.5,curves={','.join(['0.2'] * 7 * STEPS)}",
    }.get(name, name)
    more = {
        "dbcache": "residual_diff_threshold=0.9,max_warmup_steps=2",
        "fbcache": "threshold=0.9",
        "foresight": "warmup=4,threshold=2",
    }
    latents, plans = sampled(small, text + (f":{more[name]}" if name in more else ""), guided)
    assert latents.isfinite().all()
    assert {plan.label for plan in plans} == {"full", "predicted"}
    assert {len(plan.passes) for plan in plans} == {1 + guided}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("steps", [1, 2])
def test_one_and_two_steps_are_full_or_one_clear_line(name: str, steps: int) -> None:
    text = {
        "blockdance-ada": f"blockdance-ada:rho=1,reuse={','.join('1' * (steps - 1))}",
        "block-caching": f"block-caching:curves={','.join(['0.2'] * 7 * steps)}",
    }.get(name, name)
    if text.endswith("="):
        text = "blockdance-ada:rho=1,reuse=0"
        policy = build_policy(text, Parts(SMALL, OPS))
        with pytest.raises(ValueError, match="a 0 or 1 for each of the 0 steps"):
            policy.rule.start(setting(policy, steps))
        return
    policy = build_policy(text, Parts(SMALL, OPS))
    policy.rule.start(setting(policy, steps))
    plans = policy.known_plans(setting(policy, steps))
    assert plans is None or plans[0].label == "full"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block-caching", "needs curves"),
        ("block-caching:curves=0.1,0.2", "7 blocks in each of 12 steps, 84 in all, got 2"),
        ("blockdance:index=7", "index must be a whole number from 0 to 6, got 7"),
        ("blockdance:full_share=2", "full_share must be from 0 to 1"),
        ("blockdance-ada", "needs rho and reuse"),
        ("blockdance-ada:rho=9,reuse=1,1", "each of the 3 steps after the first 9, got 2"),
        ("deepcache:cache_branch_id=3", "cache_branch_id must be a whole number from 0 to 2"),
        ("delta-dit:cached_blocks=8", "cached_blocks must be a whole number from 1 to 7"),
        ("fasterdiffusion:mod=2,key_steps=0,1", "give one of them"),
        ("fasterdiffusion:prior_noise=-1", "prior_noise must be .* 0 to 1, got -1"),
        ("fasterdiffusion:key_steps=0,12", "key_steps must stay below .* the last index is 11"),
        ("fasterdiffusion:key_steps=3,5", "key_steps must begin with 0"),
        ("foresight:warmup=1", "warmup must be a whole number at least 2"),
        ("profilingdit:step_start=4", "step_cache_list must have step_start 4"),
        ("profilingdit:max_interval=4", "go together"),
        ("profilingdit:block_start_double=9", "must lie within the 3 double blocks"),
        ("profilingdit:block_cache_list_foreground=4", "from 0 to 3, got 4"),
    ],
)
def test_what_does_not_fit_a_model_or_its_steps_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        policy = build_policy(text, Parts(SMALL, OPS))
        policy.rule.start(setting(policy, STEPS))
    assert "\n" not in str(caught.value)


def test_profilingdits_interval_may_shrink_as_in_the_paper() -> None:
    text = "profilingdit:step_start=4,max_interval=6,min_interval=2"
    policy = build_policy(text, Parts(VIDEO_10, OPS))
    plans = policy.known_plans(setting(policy, 24))
    full, step = [0, 1, 2, 3], 4
    while step < 24:
        full.append(step)
        step += round(6 - 4 * (step - 4) / 20)
    assert [i for i, plan in enumerate(plans) if plan.label == "full"] == full


@pytest.mark.parametrize("separate", [True, False])
def test_dbcache_of_two_passes_is_the_same_captured(separate: bool) -> None:
    rule = DBCache(CONFIG, 1, 0, 0.9, 1, cfg_diff_compute_separate=separate)
    sites = tuple(each.site for each in middles(CONFIG, 1, 0))
    eager, captured = models(), models(graphs=GraphRunner(CPU, record))
    for seed in range(3):
        draw = Draw(rule, sites, Reuse("delta"), shifted(12, 3.0), True, 2, seed)
        latents, plans = eager.sample(draw, watched=True)
        again, same = captured.sample(draw, watched=True)
        assert torch.equal(again, latents)
        assert same == plans
        assert Act.STAND_IN in itertools.chain(*(acts for plan in plans for acts in plan.passes))
