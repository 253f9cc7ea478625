"""Methods at guidance, and selectors of levels, against the authors' code and written-out loops."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import numpy
import pytest
import torch
from torch import Tensor

from authors_runs import inputs, load_run, names, runtime
from cache_draws import CONFIG, CPU, OPS, SCALE, Draw, Models, models
from disca_rt.cache.method import Parts
from disca_rt.cache.plan import Act, Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy
from disca_rt.cache.stand_ins.kept_elsewhere import smaller
from disca_rt.conditioning import Conditioning
from disca_rt.config import MODELS, DiTConfig
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.sampling.guidance import Guidance
from disca_rt.schedule import Schedule, Step, shifted
from disca_rt.work.flops import PassFlops, sample_flops
from golden_vectors import relative_error
from recorded import record
from written_loop import Loop, guided

DRAW = Draw(None, (), None, shifted(12, 3.0), True, 1, 3)


@pytest.fixture(scope="module")
def eager() -> Models:
    return models()


def sampled(
    policy: str | Policy, draw: Draw = DRAW, by: Models | None = None, watched: bool = True
) -> tuple[Tensor, list[StepPlan]]:
    """The latents of `draw` by `policy`, and the plans of its steps where it is `watched`."""
    by = models() if by is None else by
    plans: list[StepPlan] = []
    if isinstance(policy, str):
        policy = build_policy(policy, Parts(CONFIG, OPS))
    with torch.no_grad():
        latents = by.denoiser.denoise(
            draw.latents,
            draw.conditions,
            schedule=draw.schedule,
            policy=policy,
            guidance=Guidance(None, SCALE if draw.guided else None),
            stopwatch=Stopwatch(CPU),
            on_step=(lambda event: plans.append(event.plan)) if watched else None,
        )
    return latents, plans


def loop_of(draw: Draw, eager: Models) -> Loop:
    return Loop.of(eager.denoiser.dit, draw.conditions, draw.latents, None)


def graphs_agree(policy: str, draw: Draw) -> None:
    """Recorded graphs, of steps and of the whole trajectory, give the eager sample's bits."""
    eager, by_step, whole = models(), *(models(graphs=GraphRunner(CPU, record)) for _ in range(2))
    for seed in range(3):
        each = draw._replace(seed=seed)
        latents, plans = sampled(policy, each, eager)
        again, same = sampled(policy, each, by_step)
        assert torch.equal(again, latents)
        assert same == plans
        assert torch.equal(sampled(policy, each, whole, watched=False)[0], latents)
    assert by_step.denoiser.graphs.captures > 0


# FasterCache


@pytest.mark.parametrize("name", names("fastercache-cfg"))
def test_two_passes_of_fastercache_are_those_of_diffusers(name: str) -> None:
    theirs, (positive, noise), plans = load_run(name), inputs(), []
    text = ",".join(
        f"{key}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in theirs.options.items()
    )
    latents = (
        runtime()
        .sample(
            positive,
            negative=replace(
                positive,
                text_states=positive.text_states.flip(2),
                text_states_2=positive.text_states_2.flip(1),
            ),
            latents=noise,
            schedule=theirs.schedule,
            policy=f"fastercache:{text}",
            guidance_scale=6.0,
            classifier_free_scale=theirs.facts["classifier_free_scale"],
            on_step=lambda event: plans.append(event.plan),
        )
        .latents
    )
    steps = list(enumerate(plans))
    attends = [i for i, plan in steps if plan.passes[0][0] != Act.STAND_IN]
    guides = [i for i, plan in steps if plan.passes[1][1] != Act.STAND_IN]
    assert attends == theirs.facts["attention_computed"]
    assert guides == theirs.facts["unconditional_computed"]
    assert relative_error(latents, theirs.latents) <= 1e-4


def bands(velocity: Tensor) -> list[numpy.ndarray]:
    """The shifted spectrum of each latent frame, split in low and high."""
    spectrum = numpy.fft.fftshift(numpy.fft.fft2(velocity.double().numpy()), axes=(-2, -1))
    height, width = spectrum.shape[-2:]
    y, x = numpy.mgrid[:height, :width]
    low = (y - height // 2) ** 2 + (x - width // 2) ** 2 <= (min(height, width) // 5) ** 2
    return [spectrum * low, spectrum * ~low]


def cogvideox(draw: Draw, eager: Models) -> Tensor:
    """The authors' loop: counters from 1 of 50 steps, outputs computed only."""
    loop, latents, steps = loop_of(draw, eager), draw.latents, draw.schedule.steps
    outputs: dict[tuple[int, str], list[Tensor]] = {}
    for step in draw.schedule:
        counter, of_50 = step.index + 1, (step.index + 1) * 50 / steps
        runs_both = of_50 < 18 or counter % 5 == 0
        attends = runs_both or of_50 < 18 or counter % 3 == 0

        def branch(index: int, name: str, compute: Callable, attends: bool = attends) -> Tensor:
            if not name.endswith("attn"):
                return compute()
            of_block = outputs.setdefault((index, name), [])
            if attends:
                of_block.append(compute().clone())
                return of_block[-1]
            return of_block[-1] + 0.3 * (of_block[-1] - of_block[-2])

        conditional = loop.velocity(0, latents, step, branch)
        if runs_both:
            unconditional = loop.velocity(1, latents, step)
            change = [u - c for u, c in zip(bands(unconditional), bands(conditional), strict=True)]
        else:
            change[0] = change[0] * (1.1 if of_50 <= 40 else 1.0)
            change[1] = change[1] * (1.1 if of_50 >= 30 else 1.0)
            spectrum = sum(c + d for c, d in zip(bands(conditional), change, strict=True))
            shifted_back = numpy.fft.ifftshift(spectrum, axes=(-2, -1))
            unconditional = torch.from_numpy(numpy.fft.ifft2(shifted_back).real).float()
        velocity = guided(conditional, unconditional, SCALE)
        latents = latents + velocity * (step.sigma_next - step.sigma)
    return latents


@pytest.mark.parametrize("steps", [50, 21])
def test_fastercache_as_its_authors_have_it(steps: int, eager: Models) -> None:
    draw = DRAW._replace(schedule=shifted(steps, 3.0))
    latents, plans = sampled("fastercache:cogvideox", draw, eager)
    with torch.no_grad():
        assert relative_error(latents, cogvideox(draw, eager)) <= 1e-4
    if steps == 50:
        runs = [i + 1 for i, plan in enumerate(plans) if plan.passes[1][1] != Act.STAND_IN]
        assert runs == [*range(1, 18), 20, 25, 30, 35, 40, 45, 50]


def test_fastercache_keeps_what_it_will_use_and_nothing_of_the_other_pass(eager: Models) -> None:
    _, plans = sampled("fastercache:cogvideox", DRAW._replace(schedule=shifted(50, 3.0)), eager)
    kept = [i + 1 for i, plan in enumerate(plans) if plan.passes[0][0] == Act.KEEP]
    assert kept[:3] == [17, 18, 20], "the last two before the first stand-in at 19"
    states = list(eager.denoiser._states.values())
    (state,) = [each for each in states if len(each.slots[0]) == 2][-1:]
    assert [len(places) for places in state.slots[1]] == [0, 1], "no attention of the other pass"


def test_fastercache_skips_the_work_that_it_says(eager: Models) -> None:
    window = "spatial_attention_timestep_skip_range=-1,990"
    policy = build_policy(f"fastercache:{window}", Parts(CONFIG, OPS))
    plans = sampled(policy, DRAW, eager)[1]
    work = PassFlops(CONFIG, (2, 2, 4, 4), 3)
    full = work.planned(policy, StepPlan(((Act.RUN,) * 2,) * 2), 0)
    of_attention = full - work.planned(policy, StepPlan(((Act.STAND_IN, Act.RUN),) * 2), 0)
    cached = sum(plan.passes[0][0] == Act.STAND_IN for plan in plans)
    skipped = sum(plan.passes[1][1] == Act.STAND_IN for plan in plans)
    assert min(cached, skipped) > 0
    expected = full * (2 * len(plans) - skipped) - cached * of_attention
    assert sample_flops(policy, plans, CONFIG, (2, 2, 4, 4), (3, 3)) == expected


OPEN = "spatial_attention_timestep_skip_range=-1,990,unconditional_batch_timestep_skip_range=-1,990"


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("policy", [f"fastercache:{OPEN}", "fastercache:cogvideox"])
def test_captured_fastercache_is_eager(policy: str, guided: bool) -> None:
    graphs_agree(policy, DRAW._replace(guided=guided, batch=2))


def test_the_weight_of_attention_may_rise_as_the_paper_has_it(eager: Models) -> None:
    rising = f"fastercache:{OPEN},attention_weight=none,last_two=computed"
    draw = DRAW._replace(guided=False, schedule=shifted(5, 3.0))
    latents, loop = sampled(rising, draw, eager)[0], loop_of(draw, eager)
    outputs: dict[tuple[int, str], list[Tensor]] = {}
    expected = draw.latents
    for step in draw.schedule:

        def branch(index: int, name: str, compute: Callable, step=step) -> Tensor:
            of_block = outputs.setdefault((index, name), [])
            if not name.endswith("attn") or step.index in (0, 2, 4):
                of_block.append(compute().clone())
                return of_block[-1]
            return of_block[-1] + step.index / 4 * (of_block[-1] - of_block[-2:][0])

        with torch.no_grad():
            velocity = loop.velocity(0, expected, step, branch)
        expected = expected + velocity * (step.sigma_next - step.sigma)
    assert relative_error(latents, expected) <= 1e-4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("spatial_attention_block_skip_range=0", "must be a whole number at least 1, got 0"),
        ("spatial_attention_timestep_skip_range=5", "must be two timesteps such as -1,681, got"),
        ("attention_weight=none", "goes with last_two=computed, got all"),
        ("attention_weight=2", "attention_weight must be from 0 to 1, or none, got 2"),
        ("last_two=some", "last_two must be all or computed, got 'some'"),
        ("skips_from=18,unconditional_batch_skip_range=5", "got skips_from and unconditional"),
    ],
)
def test_a_wrong_option_of_fastercache_is_one_line(options: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(f"fastercache:{options}", Parts(CONFIG, OPS))


# MixCache


class Cached(NamedTuple):
    """What the written-out MixCache caches, and D of each mode, by name."""

    tensors: dict[object, Tensor]
    changes: dict[object, float]


def distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).abs().mean() / b.double().abs().mean()).item()


class MixLoop:
    """The paper's loop, with the choices that the rule's docstring tells."""

    def __init__(self, loop: Loop, theta: float, d: tuple, N: tuple, impacts: dict) -> None:
        self.loop, self.theta, self.d, self.N, self.impacts = loop, theta, d, N, impacts
        self.kept: dict[object, Tensor] = {}
        self.changes: dict[object, float] = {}
        self.modes: list[object] = []

    @property
    def guides(self) -> bool:
        return len(self.loop.prepared) == 2

    def sample(self, latents: Tensor, schedule: Schedule) -> Tensor:
        is_warm, left = False, 0
        for step in schedule:
            mode = self.choose() if left else "full"
            velocity = self.velocity(mode, latents, step)
            if mode == "full":
                if "full" in self.kept:
                    of_full = distance(velocity, self.kept["full"])
                    is_warm = is_warm or self.changes["step"] < self.theta
                    interval = self.N[0 if of_full < self.d[0] else 1 if of_full < self.d[1] else 2]
                    left = interval - 1 if is_warm else 0
                self.kept["full"] = velocity
            else:
                left -= 1
            self.modes.append(mode)
            latents = latents + velocity * (step.sigma_next - step.sigma)
        return latents

    def choose(self) -> object:
        cost = {mode: self.changes[mode] * impact for mode, impact in self.impacts.items()}
        cost.pop(self.modes[-1], None)
        return min(cost, key=cost.get)

    def velocity(self, mode: object, latents: Tensor, step: Step) -> Tensor:
        if mode == "step":
            return self.kept["output"]
        number = mode if isinstance(mode, int) else None
        conditional = self.conditional(number, latents, step)
        output = conditional
        if self.guides:
            if mode == "full":
                unconditional = self.loop.velocity(1, latents, step)
                self.kept["change"] = unconditional - conditional
                self.changes["cfg"] = distance(unconditional, conditional)
            output = guided(conditional, conditional + self.kept["change"], SCALE)
        if "output" in self.kept:
            self.changes["step"] = distance(output, self.kept["output"])
        self.kept["output"] = output
        return output

    def conditional(self, after: int | None, latents: Tensor, step: Step) -> Tensor:
        tokens, context = self.loop.embedded(0, latents, step)
        start = 0
        if after is not None:
            start, tokens = after + 1, self.kept[after]
        for block in range(start, len(self.loop.dit.blocks)):
            tokens = self.loop.blocks(tokens, context, block, block + 1)
            if after is None and block in self.impacts:
                if block in self.kept:
                    self.changes[block] = distance(tokens, self.kept[block])
                self.kept[block] = tokens
        return self.loop.head(0, tokens, context)


def modes(plans: list[StepPlan], blocks: tuple[int, ...]) -> list[object]:
    """The modes of steps, named as in `MixLoop`."""
    found = []
    for plan in plans:
        stands = [slot for slot, act in enumerate(plan.passes[0]) if act == Act.STAND_IN]
        names = {"full": "full", "step-cached": "step", "cfg-cached": "cfg"}
        found.append(names.get(plan.label) or blocks[stands[0] - 2])
    return found


MIXED = [
    ("theta=0.6,d=0.5,0.8", 0.6, (0.5, 0.8), (4, 3, 2)),
    ("eff,theta=inf,d=0.3,0.7", float("inf"), (0.3, 0.7), (5, 4, 3)),
    ("theta=0", 0.0, (0.05, 0.1), (4, 3, 2)),
    ("theta=inf,d=inf,inf", float("inf"), (float("inf"),) * 2, (4, 3, 2)),
]


@pytest.mark.parametrize("two_passes", [True, False])
@pytest.mark.parametrize(("options", "theta", "d", "N"), MIXED)
@pytest.mark.parametrize("I_cfg", [10.0, 0.1])
def test_mixcache_is_the_loop_written_out(
    options: str, theta: float, d: tuple, N: tuple, I_cfg: float, two_passes: bool, eager: Models
) -> None:
    draw = DRAW._replace(guided=two_passes, schedule=shifted(16, 3.0))
    text = f"mixcache:{options},I_cfg={I_cfg},I_block=0.5,2,blocks=0,2"
    latents, plans = sampled(text, draw, eager)
    impacts = {"step": 1.0, "cfg": I_cfg, 0: 0.5, 2: 2.0}
    if not two_passes:
        del impacts["cfg"]
    written = MixLoop(loop_of(draw, eager), theta, d, N, impacts)
    with torch.no_grad():
        expected = written.sample(draw.latents, draw.schedule)
    assert modes(plans, (0, 2)) == written.modes
    assert relative_error(latents, expected) <= 1e-4
    assert (set(written.modes) == {"full"}) == (theta == 0)
    if theta > 0 and two_passes:
        assert len(set(written.modes)) >= 3, "the loop tries several modes"


@pytest.mark.parametrize("guided", [False, True])
def test_captured_mixcache_is_eager(guided: bool) -> None:
    graphs_agree("mixcache:theta=inf,d=0.3,0.7,I_cfg=0.5", DRAW._replace(guided=guided))


def test_mixcache_skips_the_work_that_it_says(eager: Models) -> None:
    work, tried = PassFlops(CONFIG, (2, 2, 4, 4), 3), set()
    one = work.ends + sum(map(work.block, range(4)))
    costs = {"full": 2 * one, "step": 0, "cfg": one, 1: one - work.block(0) - work.block(1)}
    for impact in (0.1, 1.0):
        text = f"mixcache:theta=inf,d=inf,inf,I_step={impact},I_cfg=0.5,blocks=1"
        policy = build_policy(text, Parts(CONFIG, OPS))
        plans = sampled(policy, DRAW, eager)[1]
        found = modes(plans, (1,))
        tried |= {*found}
        wanted = sum(costs[mode] for mode in found)
        assert sample_flops(policy, plans, CONFIG, (2, 2, 4, 4), (3, 3)) == wanted
    assert tried == {*costs}


SIZES = ("1.0", DiTConfig()), ("1.5", MODELS["hunyuan-video-1.5"]), ("small", CONFIG)


def test_mixcache_takes_blocks_in_proportion() -> None:
    stops = {
        name: [site.stop for site, _ in build_policy("mixcache", Parts(config)).slots[2:]]
        for name, config in SIZES
    }
    assert stops == {"1.0": [11, 21, 31], "1.5": [10, 19, 28], "small": [2, 3]}


def test_impacts_of_each_step_are_read_step_by_step() -> None:
    parts = Parts(CONFIG, OPS)
    table = ",".join(map(str, range(2 * 12)))
    rule = build_policy(f"mixcache:I_block={table}", parts).rule
    steps = tuple(shifted(12, 3.0))
    rule.start(Setting(steps, 2, 4))
    assert rule._block_impacts(steps[3]) == (6.0, 7.0)
    with pytest.raises(ValueError, match="I_block must be 1 number, 2 for the blocks, or 10 for"):
        rule.start(Setting(steps[:5], 2, 4))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("d=0.1", r"d must be 2 numbers, got \[0.1\]"),
        ("d=0.2,0.1", "d must not fall"),
        ("N=3,2", "N must be 3 numbers"),
        ("N=0,2,2", "N must be a whole number at least 1, got 0"),
        ("theta=-1", "theta and impacts must be at least 0, got -1"),
        ("blocks=3", "blocks must be numbers from 0 to 2 that increase, got"),
        ("blocks=1,1", "that increase"),
    ],
)
def test_a_wrong_option_of_mixcache_is_one_line(options: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(f"mixcache:{options}", Parts(CONFIG, OPS))


# T-GATE


class Gated(NamedTuple):
    """The published function's facts of a step: is it before the gate, is self-attention new."""

    is_open: bool
    attends: bool


def scheduled(step: int, gate: int, sp: int, fi: int, warm_up: int) -> Gated:
    """The phases as in the authors' scheduler."""
    if step < gate - 1:
        return Gated(True, step <= warm_up or step % sp == 0)
    if step == gate - 1:
        return Gated(True, True)
    return Gated(False, step % fi == 0)


def gated(loop: Loop, latents: Tensor, schedule: Schedule, facts: tuple[int, ...]) -> Tensor:
    """T-GATE's phases on this model: text outputs for cross-attention, the others for self."""
    kept: dict[tuple, Tensor] = {}
    image = loop.prepared[0].freqs_cos.shape[0]

    def text(number: int, index: int, name: str) -> Tensor:
        own = kept[number, index, name].clone()
        if len(loop.prepared) == 1:
            return own
        theirs, lengths = kept[1 - number, index, name], loop.prepared[1 - number].lengths
        for sample in range(len(own)):
            rows = theirs.shape[1] if lengths is None else int(lengths[sample]) - image
            rows = min(rows, own.shape[1])
            own[sample, :rows] = (own[sample, :rows] + theirs[sample, :rows]) / 2
        return own

    for step in schedule:
        now = scheduled(step.index, *facts)

        def branch(number: int, index: int, name: str, compute: Callable, now=now) -> Tensor:
            if name in ("txt_attn", "txt_mlp") and not now.is_open:
                return text(number, index, name)
            if name in ("img_attn", "attn") and not now.attends:
                return kept[number, index, name]
            kept[number, index, name] = compute().clone()
            return kept[number, index, name]

        velocities = [
            loop.velocity(number, latents, step, lambda *a, n=number: branch(n, *a))
            for number in range(len(loop.prepared) if now.is_open else 1)
        ]
        velocity = guided(*velocities, SCALE) if len(velocities) == 2 else velocities[0]
        latents = latents + velocity * (step.sigma_next - step.sigma)
    return latents


class Unequal(Draw):
    """Texts of unequal lengths, in the batch and in the passes."""

    @property
    def conditions(self) -> list[Conditioning]:
        positive, *negative = super().conditions
        mask = torch.ones(self.batch, 3, dtype=torch.long)
        mask[0, 1:] = 0
        mask[1:, 2:] = 0
        return [positive, *(replace(each, text_mask=mask) for each in negative)]


UNEQUAL = Unequal(None, (), None, shifted(12, 3.0), True, 2, 3)
GATES = [
    ("v1,gate_step=4", (4, 1, 1, 2)),
    ("v2,gate_step=8", (8, 5, 1, 2)),
    ("gate_step=7,sp_interval=2,fi_interval=3,warm_up=1", (7, 2, 3, 1)),
    ("gate_step=1,warm_up=0,fi_interval=2", (1, 5, 2, 0)),
    ("gate_step=40,sp_interval=4", (40, 4, 1, 2)),
    ("v2", (5, 5, 1, 2)),
]


@pytest.mark.parametrize("draw", [UNEQUAL, DRAW._replace(guided=False)])
@pytest.mark.parametrize(("options", "facts"), GATES)
def test_t_gate_is_the_phases_written_out(
    options: str, facts: tuple, draw: Draw, eager: Models
) -> None:
    latents, plans = sampled(f"t-gate:{options}", draw, eager)
    with torch.no_grad():
        expected = gated(loop_of(draw, eager), draw.latents, draw.schedule, facts)
    assert relative_error(latents, expected) <= 1e-4
    full = [i for i, plan in enumerate(plans) if plan.label == "full"]
    assert full == [i for i in range(12) if all(scheduled(i, *facts))]


def test_the_first_version_of_t_gate_keeps_text_rows_only(eager: Models) -> None:
    parts = Parts(DiTConfig())
    levels = [site.names for site, _ in build_policy("t-gate:v1", parts).slots]
    assert levels == [("txt_attn", "txt_mlp"), ()]
    policy = build_policy("t-gate:v1,gate_step=4", Parts(CONFIG, OPS))
    plans = sampled(policy, DRAW, eager)[1]
    kept = [i for i, plan in enumerate(plans) if plan.keeps()]
    assert kept == [3], "once, in the step before the gate"
    work = PassFlops(CONFIG, (2, 2, 4, 4), 3)
    after = work.planned(policy, StepPlan(((Act.STAND_IN, Act.RUN),) * 2), 0)
    assert after < work.planned(policy, StepPlan(((Act.RUN,) * 2,) * 2), 0)
    wanted = 4 * 2 * work.planned(policy, StepPlan(((Act.RUN,) * 2,) * 2), 0) + 8 * after
    assert sample_flops(policy, plans, CONFIG, (2, 2, 4, 4), (3, 3)) == wanted


@pytest.mark.parametrize("draw", [UNEQUAL, DRAW._replace(guided=False)])
def test_captured_t_gate_is_eager(draw: Draw) -> None:
    graphs_agree("t-gate:gate_step=6,sp_interval=2,fi_interval=2", draw)


def test_ranks_do_not_pair_texts_of_unequal_lengths(eager: Models) -> None:
    policy = build_policy("t-gate", Parts(CONFIG, OPS))
    dit = eager.denoiser.dit
    prepared = [dit.prepare(each, UNEQUAL.latents.shape) for each in UNEQUAL.conditions]
    steps = shifted(3, 3.0), policy, Guidance(None, SCALE)
    with (
        patch.object(type(eager.denoiser.sharding), "size", 2),
        pytest.raises(ValueError, match=r"policy t-gate pairs text rows of both passes.*3 and 2"),
    ):
        eager.denoiser.loop(UNEQUAL.latents.shape, prepared, *steps)


@pytest.mark.parametrize("option", ["gate_step=0", "sp_interval=0", "fi_interval=0", "warm_up=-1"])
def test_a_wrong_option_of_t_gate_is_one_line(option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(ValueError, match=f"{name} must be a whole number at least"):
        build_policy(f"t-gate:{option}", Parts(CONFIG, OPS))


@pytest.mark.parametrize("name", ["fastercache", "mixcache", "t-gate"])
def test_what_would_take_less_can_be_told(name: str) -> None:
    ways = [way for way, _ in smaller(build_policy(name, Parts(CONFIG, OPS)))]
    assert ways == ["state=fp8", "state=host", "state=fp8-host"]


@pytest.mark.parametrize("state", ["fp8", "host"])
@pytest.mark.parametrize("policy", ["t-gate:v1,gate_step=4", "fastercache:cogvideox", "mixcache"])
def test_states_that_take_less_give_nearly_the_same(policy: str, state: str, eager: Models) -> None:
    joint = ":" if ":" not in policy else ","
    latents = sampled(policy, DRAW, eager)[0]
    smaller = sampled(f"{policy}{joint}state={state}", DRAW, eager)[0]
    assert relative_error(smaller, latents) <= (0.0 if state == "host" else 0.2)
