"""TeaCache, MagCache, EasyCache, DiCache, and fixed lists: decisions over whole steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch

from authors_runs import load_run, runtime, sample
from cache_draws import BLOCKS, CONFIG, CPU, OPS, SCALE, Draw, Models, models
from cache_oracle import Oracle
from disca_rt.cache.kept import SampleShape, kept_bytes
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Act, Ask, Measured, Probe, Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy
from disca_rt.cache.rules.dicache import DiCache
from disca_rt.cache.rules.easycache import EasyCache
from disca_rt.cache.rules.magcache import MagCache
from disca_rt.cache.rules.nearest import nearest
from disca_rt.cache.rules.teacache import TeaCache
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.aligned import Aligned
from disca_rt.cache.stand_ins.polynomial import Taylor
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.config import MODELS
from disca_rt.graphs.runner import GraphRunner
from disca_rt.models.dit import StepInputs
from disca_rt.schedule import shifted
from disca_rt.work.flops import PassFlops, sample_flops
from golden_vectors import relative_error
from recorded import record

PARTS = Parts(CONFIG, OPS, sketched(CONFIG).predictor)
WHOLE = Site("blocks", 0, BLOCKS)
INFINITE = float("inf")


@pytest.fixture(scope="module")
def eager() -> Models:
    return models()


@pytest.fixture(scope="module")
def captured() -> Models:
    return models(graphs=GraphRunner(CPU, record))


def known_list(text: str, steps: int, shift: float = 7.0) -> list[int]:
    policy = build_policy(text, PARTS)
    plans = policy.known_plans(Setting(tuple(shifted(steps, shift)), 1, len(policy.slots)))
    return full_steps(plans)


def full_steps(plans: Sequence[StepPlan]) -> list[int]:
    return [index for index, plan in enumerate(plans) if plan.label == "full"]


def expected(eager: Models, draw: Draw, plans: Sequence[StepPlan]) -> torch.Tensor:
    """The latents of a sample by these plans, written out without the engine."""
    dit = eager.denoiser.dit
    oracle = Oracle(dit, Policy("drawn", draw.rule, draw.slots(eager.predictor)), SCALE)
    with torch.no_grad():
        prepared = [dit.prepare(each, draw.latents.shape) for each in draw.conditions]
        return oracle.sample(draw.schedule, plans, draw.latents, prepared, None)


MAG_SLOW = [*range(10), 12, 15, 18, 22, 25, 29, 33, 38, 43, 46, 48, 49]
MAG_LISTS = {
    ("720p-slow", 50): MAG_SLOW,
    ("544p-slow", 50): MAG_SLOW,
    ("720p-fast", 50): [*range(10), 14, 18, 23, 29, 34, 41, 46, 48, 49],
    ("544p-fast", 50): [*range(10), 14, 18, 23, 29, 34, 41, 46, 48],
    ("720p-slow", 30): [*range(6), 8, 10, 14, 17, 21, 25, 28, 29],
    ("544p-slow", 30): [*range(6), 8, 11, 14, 17, 22, 27, 29],
    ("720p-slow", 20): [0, 1, 2, 3, 6, 9, 13, 18, 19],
    ("544p-slow", 20): [0, 1, 2, 3, 6, 9, 13, 18, 19],
}


@pytest.mark.parametrize(("preset", "steps"), MAG_LISTS)
def test_magcache_has_the_authors_lists(preset: str, steps: int) -> None:
    assert known_list(f"magcache:{preset}", steps) == MAG_LISTS[preset, steps]


INTERPOLATED = ["magcache-20-720p-0.12", "magcache-20-720p-0.24", "magcache-20-544p-0.12"]
"""Runs that have the table as the authors' code interpolated it."""


@pytest.mark.parametrize("run", INTERPOLATED)
def test_a_magcache_table_is_read_at_the_nearest_steps(run: str) -> None:
    """The table that the authors' nearest_interp makes of theirs for 20 steps gives the same."""
    options = load_run(run).options
    ratios = tuple(options.pop("mag_ratios"))
    named, given = MagCache(**options), MagCache(**options, mag_ratios=ratios)
    setting = Setting(tuple(shifted(20, 7.0)), 1, 1)
    assert named.start(setting) == given.start(setting)
    assert named.start(setting) == MagCache(**options | {"table": "own"}, mag_ratios=ratios).start(
        setting
    )


def test_magcache_rounds_as_the_authors_or_as_diffusers_and_keeps_a_table_a_pass() -> None:
    """0.2 of 18 steps is 3.6: 3 first full steps, or 4."""
    table = "mag_ratios=1,1"
    assert known_list(f"magcache:{table}", 18)[:4] == [0, 1, 2, 9]
    assert known_list(f"magcache:{table},rounding=nearest", 18)[:5] == [0, 1, 2, 3, 10]
    rule = MagCache(mag_ratios=(1.0, 1.0), mag_ratios_2=(1.0, 2.0), retention_ratio=0.0)
    setting = Setting(tuple(shifted(4, 7.0)), 2, 1)
    memory = rule.start(setting)
    plans = [rule.decide(setting, step, {}, memory) for step in setting.steps]
    acts = [[of_pass[0] for of_pass in plan.passes] for plan in plans]
    keep, stand = Act.KEEP, Act.STAND_IN
    assert acts == [[keep, keep], [stand, stand], [stand, keep], [stand, keep]]
    assert [plan.label for plan in plans] == ["full", "predicted", "partly", "partly"]


def test_fixed_lists_are_the_published_ones() -> None:
    jenga = [0, 1, 2, 3, 4, *range(7, 26, 3), 26, 29, 32, 35, 38, 41, 43, 45, 46, 47, 49]
    assert known_list("jenga-steps", 50) == jenga
    assert len(jenga) == 23
    official = [*range(11), *range(11, 45, 4), *range(45, 50)]
    assert len(official) == 25
    for name in ("teacache-1.5", "taylorcache-1.5", "deepcache-1.5"):
        assert known_list(name, 50) == official
        assert known_list(name, 30) == [*range(12), 15, 19, 23, 27], "counted, not scaled"
        assert known_list(name, 8) == list(range(8))


def test_a_list_for_another_number_of_steps_does_as_the_nearest_of_its_own() -> None:
    text = "jenga-steps:step_list=0,2,of_steps=4"
    assert known_list(text, 4) == [0, 2]
    assert known_list(text, 7) == [0, 1, 3, 4, 5], "0, .5, 1, 1.5, 2, 2.5, 3"
    assert known_list(text, 1) == [0]
    assert known_list("jenga-steps", 25)[:4] == [0, 1, 2, 5]


def test_nearest_keeps_both_ends() -> None:
    assert nearest("abcd", 4) == tuple("abcd")
    assert nearest("abcd", 2) == ("a", "d")
    assert nearest("abcd", 1) == ("d",)
    assert nearest("ab", 4) == ("a", "a", "b", "b")


def test_slots_of_the_official_caches() -> None:
    for model, blocks in (("hunyuan-video-1.5", 54), ("hunyuan-video", 60)):
        parts = Parts(MODELS[model], OPS)
        (slot,) = build_policy("deepcache-1.5", parts).slots
        assert slot.site == Site("blocks", 0, blocks - 1)
        text = f"deepcache-1.5:no_cache_block_id={blocks - 2},{blocks - 1}"
        assert build_policy(text, parts).slots[0].site.stop == blocks - 2
        with pytest.raises(ValueError, match=f"must be some last ones of {blocks} blocks, such as"):
            build_policy("deepcache-1.5:no_cache_block_id=0,1", parts)
    assert build_policy("taylorcache-1.5", PARTS).slots[0].stand_in == Taylor(OPS, 2)


def test_teacache_of_two_passes_by_a_written_out_loop(eager: Models) -> None:
    """One decision by the first pass's sum, or one a pass by its own."""
    changes = [[0.3, 0.9], [0.3, 0.1], [0.5, 0.1], [0.3, 0.95], [0.0, 0.0]]
    together = TeaCache(1.0, (1.0, 0.0))
    apart = TeaCache(1.0, (1.0, 0.0), per_pass=True)
    assert full_steps(plans_of(together, changes)) == [0, 3, 5]
    acts = [[acts[0] == Act.KEEP for acts in plan.passes] for plan in plans_of(apart, changes)]
    assert acts == [
        [True, True],
        [False, False],
        [False, True],
        [True, False],
        [False, True],
        [True, True],
    ]


def plans_of(rule: TeaCache, changes: list[list[float]]) -> list[StepPlan]:
    """The plans of a sample of two passes in whose steps after the first these are measured."""
    setting, plans = Setting(tuple(shifted(len(changes) + 1, 7.0)), 2, 1), []
    memory = rule.start(setting)
    for step in setting.steps:
        seen: dict[Probe, Measured] = {}
        while isinstance(answer := rule.decide(setting, step, seen, memory), Ask):
            ratio = changes[step.index - 1][answer.probe.which_pass]
            seen[answer.probe] = Measured(ratio, 1.0)
        memory = rule.remember(setting, step, answer, seen, memory)
        plans.append(answer)
    return plans


RULES = {
    "teacache": TeaCache(0.4, (1.0, 0.0)),
    "teacache, a pass each": TeaCache(0.4, (1.0, 0.0), per_pass=True),
    "easycache": EasyCache(2.0, 2),
    "dicache": DiCache(0.3, 0.0),
    "dicache, a pass each": DiCache(0.7, 0.4, 2, per_pass=True),
    "magcache": MagCache(mag_ratios_2=(1.0, 0.8, 1.3)),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("guided", "stand_in"), [(False, Taylor(OPS, 1)), (True, Reuse("delta"))])
def test_any_stand_in_follows_the_decisions(
    name: str, guided: bool, stand_in: object, eager: Models, captured: Models
) -> None:
    draw = Draw(RULES[name], WHOLE, stand_in, shifted(8, 3.0), guided, 2, 4)
    latents, plans = eager.sample(draw)
    assert relative_error(latents, expected(eager, draw, plans)) <= 1e-4
    again, replanned = captured.sample(draw)
    assert torch.equal(again, latents)
    assert replanned == plans
    assert 0 < len(full_steps(plans)) < 8, "both kinds of step"


@pytest.mark.parametrize("rule", [DiCache(0.5, 0.2, 2), DiCache(0.6, 0.2, 2, per_pass=True)])
def test_dicache_of_two_passes_by_a_written_out_loop(rule: DiCache, eager: Models) -> None:
    """Decision and gamma of the conditional pass, or of each; each has its own residuals."""
    draw = Draw(rule, WHOLE, Aligned(OPS), shifted(12, 3.0), True, 1, 3)
    latents, plans = eager.sample(draw)
    with torch.no_grad():
        theirs, computed, gammas = dicache_loop(eager, draw, rule)
    assert [[acts[0] == Act.KEEP for acts in plan.passes] for plan in plans] == computed
    assert relative_error(latents, theirs) <= 1e-5
    assert any(1.0 < gamma < 1.5 for gamma in gammas), "between the clips, too"
    assert rule.per_pass == any(both[0] != both[1] for both in computed)


@dataclass
class PassOfDiCache:
    """One pass by the formulas of the paper, whose `leader` decides (None: itself)."""

    rule: DiCache
    leader: "PassOfDiCache | None" = None
    total: float = 0.0
    gamma: float = 1.0
    is_full: bool = True
    probe: torch.Tensor | None = None
    changes: list[torch.Tensor] = field(default_factory=list)  # z of the last two full steps
    residuals: list[torch.Tensor] = field(default_factory=list)  # r of the last two

    def decide(self, step: int, steps: int, embedded: torch.Tensor, probe: torch.Tensor) -> None:
        if self.leader is not None:
            self.is_full, self.gamma = self.leader.is_full, self.leader.gamma
            return
        self.is_full = step < int(self.rule.ret_ratio * steps)
        if not self.is_full:
            change = (probe - self.probe).abs().mean() / self.probe.abs().mean()
            self.total += change.item()
            self.is_full = self.total > self.rule.rel_l1_thresh
        self.probe, z = probe, probe - embedded
        if self.is_full:
            self.total, self.changes = 0.0, [*self.changes, z][-2:]
        elif len(self.changes) == 2:
            older, newer = self.changes
            ratio = (z - older).abs().mean() / (newer - older).abs().mean()
            self.gamma = ratio.clip(1, 1.5).item()

    def last(self, tokens: torch.Tensor, blocks: Callable[[], torch.Tensor]) -> torch.Tensor:
        if self.is_full:
            last = blocks()
            self.residuals = [*self.residuals, last - tokens][-2:]
            return last
        older, newer = self.residuals
        return tokens + older + self.gamma * (newer - older)


def dicache_loop(
    eager: Models, draw: Draw, rule: DiCache
) -> tuple[torch.Tensor, list[list[bool]], list[float]]:
    """The latents, the passes that computed by step, and the gammas."""
    dit, x, steps = eager.denoiser.dit, draw.latents, len(list(draw.schedule))
    prepared = [dit.prepare(each, x.shape) for each in draw.conditions]
    oracle = Oracle(dit, Policy("none", rule, ()), SCALE)
    first = PassOfDiCache(rule)
    passes = [first, PassOfDiCache(rule, None if rule.per_pass else first)]
    computed, gammas = [], []
    for step in draw.schedule:
        patches = []
        inputs = StepInputs(torch.tensor([step.t]), None, None)
        for each, of_pass in zip(prepared, passes, strict=True):
            tokens, context = dit.embed(x, inputs, each)
            img = context.layout.img_len
            probe = oracle.run(0, tokens, context, 0, rule.probe_depth)
            of_pass.decide(step.index, steps, tokens[:, :img], probe[:, :img])
            blocks = partial(oracle.run, 0, tokens, context, 0, BLOCKS)
            patches.append(dit.head(of_pass.last(tokens, blocks), context).float())
        computed.append([each.is_full for each in passes])
        gammas += [each.gamma for each in passes if not each.is_full]
        guided = patches[1] + SCALE * (patches[0] - patches[1])
        x = x + dit.unpatchify(guided, prepared[0]) * (step.sigma_next - step.sigma)
    return x, computed, gammas


@pytest.mark.parametrize("name", ["teacache", "easycache", "dicache", "magcache"])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_thresholds_of_zero_and_infinity(name: str, steps: int, eager: Models) -> None:
    option = "thresh" if name in ("easycache", "magcache") else "rel_l1_thresh"
    first = {"easycache": "ret_steps=1", "magcache": "retention_ratio=0,K=99,mag_ratios=2,2"}
    more = first.get(name, "ret_ratio=0" if name == "dicache" else "per_pass=false")
    every, uncached = (run(eager, text, steps) for text in (f"{name}:{option}=0,{more}", "full"))
    assert full_steps(every[1]) == list(range(steps))
    assert relative_error(every[0], uncached[0]) <= 1e-6
    _, plans = run(eager, f"{name}:{option}=inf,{more}", steps)
    least = {"teacache": {0, steps - 1}, "easycache": {0, min(1, steps - 1), steps - 1}}
    assert full_steps(plans) == sorted(least.get(name, {0}))


def run(eager: Models, text: str, steps: int) -> tuple[torch.Tensor, list[StepPlan]]:
    policy = build_policy(text, PARTS._replace(predictor=eager.predictor))
    site, stand_in = policy.slots[0] if policy.slots else (WHOLE, Reuse())
    return eager.sample(Draw(policy.rule, site, stand_in, shifted(steps, 3.0), False, 1, 7))


def test_a_first_step_that_leaves_nothing_to_compare_is_followed_by_full_ones() -> None:
    """A change of nothing by nothing is no number: the step is computed."""
    rule = TeaCache(INFINITE)
    setting = Setting(tuple(shifted(3, 7.0)), 1, 1)
    seen = {rule.probes[0]: Measured(float("nan"), float("nan"))}
    assert rule.decide(setting, setting.steps[1], seen, (0.0,)) == setting.full


@pytest.mark.parametrize(
    ("text", "units"),
    [("teacache", 2), ("magcache", 1), ("dicache", 5), ("jenga-steps", 1), ("taylorcache-1.5", 3)],
)
def test_what_they_keep_in_tokens_times_width(text: str, units: int) -> None:
    """Residuals are of joint rows, what is compared with of image rows; latents count as well."""
    img, txt = 1000, 8
    shape = SampleShape(CONFIG, torch.bfloat16, CPU, (1, 2, 10, 20, 20), img, ((img, txt),))
    one = (img + txt) * CONFIG.hidden * 2
    assert kept(text, shape) <= units * one
    assert kept(text, shape) > 0.98 * units * one


def test_easycache_keeps_four_latents_and_no_tokens() -> None:
    latents = 1, 2, 10, 20, 20
    shape = SampleShape(CONFIG, torch.bfloat16, CPU, latents, 1000, ((1000, 8),))
    assert kept("easycache", shape) == 4 * torch.Size(latents).numel() * 4


def kept(text: str, shape: SampleShape) -> int:
    return kept_bytes(build_policy(text, PARTS), shape).device


def test_blocks_that_ran_for_a_probe_in_vain_are_counted() -> None:
    dit, calls = runtime().dit, []
    hooks = [
        block.register_forward_pre_hook(lambda *args, i=i: calls.append(i))
        for i, block in enumerate(dit.blocks)
    ]
    ours = sample("dicache:rel_l1_thresh=0.5,probe_depth=2", shifted(8, 7.0))
    for hook in hooks:
        hook.remove()
    assert {plan.probed for plan in ours.plans} == {(None,), (2,)}, "the first step asks nothing"
    count = PassFlops(dit.config, (16, 5, 6, 10), 13)
    wanted = 8 * count.ends + sum(map(count.block, calls))
    policy = build_policy("dicache", runtime().parts)
    assert sample_flops(policy, ours.plans, dit.config, (16, 5, 6, 10), (13,)) == wanted
    assert 0 < len(ours.full_steps) < 8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("teacache:rel_l1_thresh=-1", "rel_l1_thresh must be a number of at least 0, got -1.0"),
        ("teacache:rel_l1_thresh=nan", "rel_l1_thresh must be a number, got .nan."),
        ("teacache:thresh=1", "teacache has no option 'thresh'; its options: coefficients, form, "),
        ("teacache:medium", "a preset's name may come first, and there are: fast, slow"),
        ("magcache:K=-1", "K must be a whole number at least 0, got -1"),
        ("magcache:retention_ratio=2", "retention_ratio must be a number from 0 to 1, got 2.0"),
        ("magcache:table=480p", "table must be 720p or 544p or own, got '480p'"),
        ("magcache:table=own", "table own needs mag_ratios; give them, or name 720p or 544p"),
        ("magcache:rounding=up", "rounding must be down or nearest, got 'up'"),
        ("magcache:mag_ratios=1,nan", "mag_ratios must be numbers .*, got .1,nan."),
        ("easycache:ret_steps=-1", "ret_steps must be a whole number at least 0, got -1"),
        ("dicache:probe_depth=0", f"probe_depth must be a whole number from 1 to {BLOCKS}, got 0"),
        ("jenga-steps:step_list=0,60", "of_steps must be a whole number at least 61, got 50"),
        ("teacache-1.5:cache_end_step=3", "cache_end_step must be a whole number at least 11, got"),
    ],
)
def test_a_wrong_option_says_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(text, PARTS)


def test_a_probe_beyond_the_blocks_is_refused(eager: Models) -> None:
    with pytest.raises(ValueError, match=f"probe_depth must be .* {BLOCKS}, got 9"):
        run(eager, "dicache:probe_depth=9", 3)


@pytest.mark.parametrize(
    "text",
    [
        "teacache:rel_l1_thresh=0.4,coefficients=1,0+taylor:order=2",
        "magcache:720p-slow+disca",
        "easycache:thresh=0.3,ret_steps=2+reuse:form=delta",
        "dicache:rel_l1_thresh=0.3+hermite",
        "jenga-steps+disca",
    ],
)
def test_decisions_go_with_other_stand_ins(text: str, eager: Models) -> None:
    latents, plans = run(eager, text, 10)
    assert {plan.label for plan in plans} == {"full", "predicted"}
    assert not torch.equal(latents, run(eager, "full", 10)[0])


def test_presets_are_the_published_settings() -> None:
    assert build_policy("teacache:slow", PARTS).rule == TeaCache(0.1)
    assert build_policy("teacache:fast", PARTS).rule == TeaCache(0.15)
    assert build_policy("magcache:544p-slow", PARTS).rule == MagCache(0.12, 4, table="544p")
    assert build_policy("magcache", PARTS).rule == build_policy("magcache:720p-fast", PARTS).rule
    assert build_policy("easycache", PARTS).rule == EasyCache(0.025, 5)
    assert build_policy("dicache", PARTS).rule == DiCache(0.1, 0.2, 1)


def test_the_change_that_teacache_measures_goes_through_its_polynomial() -> None:
    z = torch.tensor(0.07, dtype=torch.float64)
    by_hand = 733.226126 * z**4 - 401.131952 * z**3 + 67.5869174 * z**2 - 3.149878 * z
    assert TeaCache().estimate(0.07) == pytest.approx(float(by_hand) + 0.0961237896, rel=1e-12)
    assert TeaCache(coefficients=(2.0, 1.0)).estimate(3.0) == 7.0
