"""Any rule with any stand-in at any site: against a written-out loop, under graphs, over ranks."""

from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode

from cache_draws import CONFIG, CPU, EVERY_BRANCH, SCALE, Draw, Models, draws, models
from cache_oracle import Oracle
from cache_rules import Giving, Measuring, TwoParts, Verified, Watching
from disca_rt.cache.method import Parts
from disca_rt.cache.plan import Act, Ask, Draft, Measured, Probe, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy
from disca_rt.cache.rule import RuleDefaults
from disca_rt.cache.rules.always import Always
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.polynomial import Taylor
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.graphs.runner import GraphRunner
from disca_rt.kernels import fused
from disca_rt.kernels.operand import OperandOps
from disca_rt.kernels.ops import Ops, get_ops
from disca_rt.models.stream import materialise
from disca_rt.schedule import shifted
from golden_vectors import relative_error
from parallel.launch import forked, passes
from recorded import record

OPS = get_ops("reference")
WHOLE = Site("blocks", 0, CONFIG.double + CONFIG.single)
BRANCHES = Site("branch", 0, 4, EVERY_BRANCH)


@pytest.fixture(scope="module")
def eager() -> Models:
    return models()


def expected(eager: Models, draw: Draw, plans: list) -> torch.Tensor:
    dit = eager.denoiser.dit
    oracle = Oracle(dit, Policy("drawn", draw.rule, draw.slots(eager.predictor)), SCALE)
    with torch.no_grad():
        prepared = [dit.prepare(each, draw.latents.shape) for each in draw.conditions]
        return oracle.sample(draw.schedule, plans, draw.latents, prepared, None)


@settings(max_examples=60)
@given(draw=draws())
def test_a_sample_is_what_its_plans_say(eager: Models, draw: Draw) -> None:
    latents, plans = eager.sample(draw, watched=True)
    assert relative_error(latents, expected(eager, draw, plans)) <= 1e-4
    again, replanned = eager.sample(draw)
    assert torch.equal(again, latents), "a second sample sees nothing of the first"
    assert replanned == plans


@settings(max_examples=12)
@given(draw=draws())
def test_captured_samples_are_eager_ones(eager: Models, draw: Draw) -> None:
    by_step, whole = (models(graphs=GraphRunner(CPU, record)) for _ in range(2))
    for seed in range(3):  # a warm-up, a capture, a replay
        each = draw._replace(seed=draw.seed + seed)
        latents, plans = eager.sample(each)
        for captured, watched in ((by_step, True), (whole, False)):
            replayed, same = captured.sample(each, watched)
            assert torch.equal(replayed, latents)
            assert same == plans
    is_captured = all(probe.of != "score" for probe in draw.rule.probes)
    assert (by_step.denoiser.graphs.captures > 0) == is_captured


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_decide_and_sample_as_one(ranks: int) -> None:
    passes(forked(ranks, Path(__file__).parents[1] / "parallel" / "seam_worker.py"))


@pytest.mark.parametrize("graphs", [None, GraphRunner(CPU, record)])
@pytest.mark.parametrize("site", [WHOLE, Site("blocks", 1, 3)])
def test_drafts_that_are_all_given_up_leave_no_trace(
    site: Site, graphs: GraphRunner | None, eager: Models
) -> None:
    taylor = Taylor(OPS, 2)
    rejecting = Draw(Verified(0.0), site, taylor, shifted(6, 3.0), True, 2, 5)
    every = rejecting._replace(rule=Interval(1))
    sampled = models(graphs=graphs)
    full, plans = eager.sample(every)
    for _ in range(3):
        latents, decided = sampled.sample(rejecting)
        assert torch.equal(latents, full)
        assert [plan.passes for plan in decided] == [plan.passes for plan in plans]
    accepted, decided = sampled.sample(rejecting._replace(rule=Verified(float("inf"))))
    assert [plan.label for plan in decided] == ["full"] + ["predicted"] * 5
    assert not torch.equal(accepted, full)


def test_what_a_rejected_draft_saw_is_nothing_to_compare_with(eager: Models) -> None:
    seen: list[float] = []
    changes = Probe("velocity")

    class Watched(Verified):
        probes = (Probe("slot", "stand-in", norm="l2"), changes)

        def remember(self, setting, step, plan, measured, memory):
            seen.extend([measured[changes].ratio] if changes in measured else [])
            return True

    eager.sample(Draw(Watched(0.0), WHOLE, Reuse(), shifted(4, 3.0), False, 1, 0))
    assert len(seen) == 3
    assert all(ratio != ratio for ratio in seen)


def test_a_rule_sees_the_change_that_it_asks_for(eager: Models) -> None:
    """TeaCache's distance, mean|m - m'| / mean|m'| of the first block's modulated input."""
    seen: list[float] = []

    class Looking(Measuring):
        def remember(self, setting, step, plan, measured, memory):
            seen.append(measured[self.probe].ratio)
            return super().remember(setting, step, plan, measured, memory)

    rule = Looking(Probe("modulated"), 0.0)
    draw = Draw(rule, WHOLE, Reuse("delta"), shifted(3, 3.0), False, 1, 0)
    inputs: list[torch.Tensor] = []
    dit = eager.denoiser.dit
    attend = dit.double_blocks[0]._attend

    def spy(img: torch.Tensor, *others: object) -> object:
        inputs.append(img.double())
        return attend(img, *others)

    dit.double_blocks[0]._attend = spy
    try:
        eager.sample(draw)
    finally:
        del dit.double_blocks[0]._attend
    assert seen[0] != seen[0], "nothing to compare with"
    pairs = zip(inputs[1:], inputs, strict=False)
    wanted = [((now - before).abs().sum() / before.abs().sum()).item() for now, before in pairs]
    assert seen[1:] == pytest.approx(wanted, rel=1e-5)


def test_a_replaced_branch_saves_its_norm_and_a_skipped_pass_everything(eager: Models) -> None:
    calls: list[str] = []

    def counting(name: str) -> object:
        def call(*args: object, **more: object) -> object:
            calls.append(name)
            return getattr(OPS, name)(*args, **more)

        return call

    norms = "layer_norm_modulate", "gate_residual_layer_norm_modulate"
    counted = *norms, "head"
    ops = Ops(**vars(OPS) | {name: counting(name) for name in counted})
    dit = eager.denoiser.dit
    for module in dit.modules():
        if hasattr(module, "ops"):
            module.ops = ops
    try:
        eager.sample(Draw(Interval(9), BRANCHES, Reuse(), shifted(2, 3.0), False, 1, 0))
        found = [calls.count(name) for name in norms]
        # The first block has no sum to take; the first single one takes image and text apart.
        assert found == [2, 2 * 2 * (CONFIG.double - 1) + 2 + CONFIG.single + 1], "of one step"
        calls.clear()
        eager.sample(Draw(Interval(9), Site("guidance"), Reuse(), shifted(3, 3.0), True, 1, 0))
        assert calls.count("head") == 2 + 1 + 1
        calls.clear()
        eager.sample(Draw(Interval(9), Site("velocity"), Reuse(), shifted(3, 3.0), True, 1, 0))
        assert calls.count("head") == 2
    finally:
        for module in dit.modules():
            if hasattr(module, "ops"):
                module.ops = OPS


def test_a_step_that_keeps_its_branches_is_a_full_one_and_copies_none(eager: Models) -> None:
    """Bit for bit; the last op of a branch writes into the buffer in which it is kept."""
    copied: list[torch.Tensor] = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.copy_.default:
                copied.append(args[0])
            return func(*args, **kwargs or {})

    draw = Draw(Interval(1), BRANCHES, Reuse(), shifted(2, 3.0), False, 1, 0)
    ops = Ops(**vars(OPS) | {"pair_linear": OperandOps(fused).pair_linear})
    dit = eager.denoiser.dit
    for block in dit.blocks:
        block.ops = ops
    try:
        plain, _ = eager.sample(draw._replace(rule=Always()))
        with Copies():
            latents, _ = eager.sample(draw)
    finally:
        for block in dit.blocks:
            block.ops = OPS
    assert torch.equal(latents, plain)
    assert not copied


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 1.0, float("inf")])
def test_two_parts_of_a_step_are_decided_one_after_the_other(
    threshold: float, guided: bool, eager: Models
) -> None:
    rule = TwoParts((1, 3), threshold)
    sites = Site("blocks", 1, 2), Site("blocks", 3, 4)
    captured = models(graphs=GraphRunner(CPU, record))
    for seed in range(3):
        draw = Draw(rule, sites, Reuse("delta"), shifted(5, 3.0), guided, 2, seed)
        latents, plans = eager.sample(draw)
        assert relative_error(latents, expected(eager, draw, plans)) <= 1e-4
        again, same = captured.sample(draw, watched=True)
        assert torch.equal(again, latents)
        assert same == plans
    cached = [acts.count(Act.STAND_IN) for plan in plans for acts in plan.passes]
    assert (sum(cached) > 0) == (threshold > 0)


def test_watched_values_are_those_of_the_step_before(eager: Models) -> None:
    """A slot against what it kept (Foresight), and the two passes against each other (MixCache)."""
    slot = Probe("slot", "stand-in", norm="l2", which_pass=1)
    passes = Probe("patches", "conditional", which_pass=1)
    seen: list[dict[Probe, float]] = []
    tokens: list[torch.Tensor] = []
    patches: list[torch.Tensor] = []
    site = Site("blocks", 0, 3)
    draw = Draw(Watching((slot, passes), seen), site, Reuse(), shifted(3, 3.0), True, 1, 0)
    dit = eager.denoiser.dit
    head, last = dit.head, dit.single_blocks[1]

    def at_head(*args: object) -> torch.Tensor:
        patches.append(head(*args).double())
        return patches[-1].to(torch.float32)

    def at_last(block: torch.nn.Module, args: tuple) -> None:
        tokens.append(materialise(args[0], OPS).double().clone())

    hook = last.register_forward_pre_hook(at_last)
    with patch.object(dit, "head", at_head):
        eager.sample(draw)
    hook.remove()
    of_second = tokens[1::2]
    pairs = zip(of_second[1:], of_second, strict=False)
    changes = [((a - b).square().sum() / b.square().sum()).item() for a, b in pairs]
    assert [each[slot] for each in seen[1:]] == pytest.approx(changes, rel=1e-5)
    assert seen[0][slot] != seen[0][slot]
    pairs = zip(patches[::2], patches[1::2], strict=True)
    mixed = [((u - c).abs().sum() / c.abs().sum()).item() for c, u in pairs]
    assert [each[passes] for each in seen] == pytest.approx(mixed, rel=1e-5)


def test_scalars_of_a_plan_reach_stand_ins_and_are_no_part_of_a_capture(eager: Models) -> None:
    @dataclass(frozen=True)
    class Scaled(Reuse):
        takes = "index"

        def numbers(self, kept_at, step, given):
            return given or (0.0,)

        def value(self, kept, at):
            assert at.context.layout.grid == (2, 2, 2)
            return kept[0] * at.numbers[0]

    captured = models(graphs=GraphRunner(CPU, record))
    for seed in range(3):
        draw = Draw(Giving(), WHOLE, Scaled(), shifted(5, 3.0), False, 1, seed)
        latents, _ = eager.sample(draw)
        by_step, _ = captured.sample(draw, watched=True)
        assert torch.equal(by_step, latents)
    assert captured.denoiser.graphs.captures == 2
    plain, _ = eager.sample(draw._replace(stand_in=Reuse()))
    assert not torch.equal(plain, latents)


def test_a_probe_of_image_rows_leaves_text_out(eager: Models) -> None:
    """DiCache's: mean|p - p'| / mean|p'| of the image tokens after some blocks."""
    image, joint = (Probe(of, after=2) for of in ("image", "tokens"))
    seen: list[dict[Probe, float]] = []
    tokens: list[torch.Tensor] = []

    def note(block: torch.nn.Module, args: tuple) -> None:
        tokens.append(materialise(args[0], OPS).double()[:, :8].clone())

    hook = eager.denoiser.dit.single_blocks[0].register_forward_pre_hook(note)
    rule = Watching((image, joint), seen)
    eager.sample(Draw(rule, WHOLE, Reuse(), shifted(3, 3.0), False, 1, 0))
    hook.remove()
    pairs = zip(tokens[1:], tokens, strict=False)
    wanted = [((now - before).abs().sum() / before.abs().sum()).item() for now, before in pairs]
    assert [each[image] for each in seen[1:]] == pytest.approx(wanted, rel=1e-5)
    assert all(each[image] != each[joint] for each in seen[1:])


def test_each_pass_may_be_given_scalars_of_its_own(eager: Models) -> None:
    @dataclass(frozen=True)
    class Scaled(Reuse):
        takes = "index"

        def numbers(self, kept_at, step, given):
            return given[:2] or (1.0, 1.0)

        def value(self, kept, at):
            return kept[0] * at.numbers[0] * at.numbers[1]

    @dataclass(frozen=True)
    class Apart(Giving):
        scalars: tuple = ((2.0,), (3.0,))

        def decide(self, setting, step, seen, memory):
            plan = super().decide(setting, step, seen, memory)
            return plan._replace(given=(1.0,), given_by_pass=self.scalars)

    kept = []
    head = eager.denoiser.dit.head

    def at_head(tokens: torch.Tensor, context: object) -> torch.Tensor:
        kept.append(tokens.clone())
        return head(tokens, context)

    with patch.object(eager.denoiser.dit, "head", at_head):
        eager.sample(Draw(Apart(), WHOLE, Scaled(), shifted(2, 3.0), True, 1, 0))
    for first, then, scale in zip(kept[:2], kept[2:], (2.0, 3.0), strict=True):
        assert torch.equal(then, first * scale)


class Asks(Measuring):
    """Asks for a probe that it does not declare."""

    probes = (Probe("latents"),)


class Keeps(Verified):
    """Drafts a plan that keeps."""

    def decide(self, setting, step, seen, memory):
        return Draft(setting.full)


class Early(Interval):
    """Stands in before anything is kept."""

    def decide(self, setting, step, seen, memory):
        return setting.predicted


@pytest.mark.parametrize(
    ("rule", "site", "reason"),
    [
        (Asks(Probe("modulated"), 0.1), WHOLE, "none of the probes that its rule declares"),
        (Keeps(0.1), WHOLE, "a draft must keep nothing"),
        (Early(2), WHOLE, "step 0: slot 0 of pass 0 stands in before anything was kept"),
        (Measuring(Probe("modulated", which_pass=1), 0.1), WHOLE, "which_pass of Probe"),
        (
            Measuring(Probe("residual", "kept", after=2), 9.0),
            Site("blocks", 1, 4),
            "ran before a probe after block 2 was asked for; let slot 0 begin at block 0, or at 2",
        ),
    ],
)
def test_rules_that_cannot_be_followed_say_why(
    rule: object, site: Site, reason: str, eager: Models
) -> None:
    draw = Draw(rule, site, Reuse(), shifted(3, 3.0), False, 1, 0)
    with pytest.raises(ValueError, match=reason):
        eager.sample(draw)


@dataclass(frozen=True)
class Scripted(RuleDefaults):
    """Answers given by step: drafts and asks in order, then the plan. Notes what it saw."""

    before: tuple[tuple[Draft | Ask, ...], ...]
    plans: tuple[StepPlan, ...]
    probes: tuple[Probe, ...]
    seen: list[dict[Probe, Measured]] = field(default_factory=list, compare=False)
    asked: dict[int, int] = field(default_factory=dict, compare=False)  # times, by step

    def start(self, setting):
        return 0

    def decide(self, setting, step, seen, memory):
        turn = self.asked.pop(step.index, 0)
        if turn == len(self.before[step.index]):
            return self.plans[step.index]
        self.asked[step.index] = turn + 1
        return self.before[step.index][turn]

    def remember(self, setting, step, plan, seen, memory):
        self.seen.append(dict(seen))
        return memory


RUN, KEPT, STANDS = (StepPlan(((act,),)) for act in (Act.RUN, Act.KEEP, Act.STAND_IN))
VELOCITY, LATENTS, MODULATED = Probe("velocity"), Probe("latents"), Probe("modulated")
REJECTED = Draft(StepPlan(((Act.STAND_IN,),), "draft", (VELOCITY,)))
ACCEPTED = Draft(StepPlan(((Act.RUN,),), "draft", (VELOCITY,)))


def scripted(before: list, plans: list, **more: object) -> Draw:
    rule = Scripted(tuple(before), tuple(plans), (VELOCITY, LATENTS, MODULATED))
    return Draw(rule, WHOLE, Reuse(), shifted(len(plans), 3.0), False, 1, 0)._replace(**more)


def test_an_accepted_draft_is_not_overwritten_by_what_is_asked_in_later_steps() -> None:
    ask = Ask(MODULATED)
    eager, captured = models(), models(graphs=GraphRunner(CPU, record))
    for seed in range(4):
        draw = scripted([(ACCEPTED, ask), (ACCEPTED,), (ask,)], [RUN] * 3, seed=seed)
        assert torch.equal(captured.sample(draw, True)[0], eager.sample(draw, True)[0])


def test_a_rejected_draft_neither_leaves_nor_takes_measurements(eager: Models) -> None:
    """Changes of latents and of velocity are the same with no draft, one, two, and beside asks."""
    watched = KEPT._replace(watch=(VELOCITY,))
    ask = Ask(LATENTS)
    seen = []
    for before in ((ask,), (ask, REJECTED), (REJECTED, ask), (ask, REJECTED, REJECTED)):
        draw = scripted([(ask,), before, before, before], [watched] * 4)
        eager.sample(draw)
        changes = draw.rule.seen[-4:]
        seen.append([(each[LATENTS].ratio, each[VELOCITY].ratio) for each in changes[1:]])
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert all(ratio > 0 for pair in seen[0] for ratio in pair)


def test_two_probes_of_one_slot_are_told_apart(eager: Models) -> None:
    probes = tuple(Probe("slot", "stand-in", norm=norm) for norm in ("l1", "l2"))
    seen: list[dict[Probe, float]] = []
    eager.sample(Draw(Watching(probes, seen), BRANCHES, Reuse(), shifted(3, 3.0), False, 1, 0))
    assert seen[-1][probes[0]] != seen[-1][probes[1]]


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ((Site("blocks", 0, 40),), "within 0 to 4, got 0 to 40"),
        ((Site("blocks", 3, 1),), "within 0 to 4, got 3 to 1"),
        ((Site("branch", 0, 4, ("img_atn",)),), "got 'img_atn'"),
        ((Site("branch", 0, 2, ("total",)),), "none of the branches"),
        ((Site("guidance"),), "classifier-free guidance"),
        ((Site("branch", 0, 3, ("total",)), Site("branch", 2, 4, ("attn",))), "at one branch"),
    ],
)
def test_a_site_that_means_nothing_is_refused(sites: tuple, message: str, eager: Models) -> None:
    draw = Draw(Interval(2), sites, Reuse(), shifted(3, 3.0), False, 1, 0)
    with pytest.raises(ValueError, match=message):
        eager.sample(draw)


@pytest.mark.parametrize("stand_in", [Reuse(), Taylor(OPS, 1)])
def test_a_slot_at_guidance_is_absent_where_there_is_one_pass(stand_in, eager: Models) -> None:
    draw = Draw(Interval(2), WHOLE, stand_in, shifted(4, 3.0), False, 1, 0)
    both = draw._replace(site=(WHOLE, Site("guidance")))
    assert torch.equal(eager.sample(both)[0], eager.sample(draw)[0])


def test_a_slot_of_one_pass_keeps_nothing_of_the_other(eager: Models) -> None:
    first = BRANCHES._replace(only_pass=0)
    acts = [StepPlan(((act,), (Act.RUN,))) for act in (Act.KEEP, Act.STAND_IN, Act.KEEP)]
    draw = scripted([(), (), ()], acts, site=first, guided=True)
    latents, plans = eager.sample(draw)
    assert relative_error(latents, expected(eager, draw, plans)) <= 1e-4
    state = next(reversed(eager.denoiser._states.values()))
    assert [len(places) for (places,) in state.slots] == [10, 0]
    uniform, plans = eager.sample(draw._replace(rule=Interval(2)))
    assert plans[1].passes == ((Act.STAND_IN,),) * 2
    assert torch.equal(uniform, latents), "in the other pass its acts do nothing"


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (Probe("tokens", "stand-in"), "against"),
        (Probe("slot"), "against"),
        (Probe("latents", norm="l3"), "norm"),
        (Probe("tokens", after=99), "after"),
    ],
)
def test_a_probe_that_means_nothing_is_refused(probe: Probe, message: str, eager: Models) -> None:
    draw = Draw(Measuring(probe, 0.5), WHOLE, Reuse(), shifted(3, 3.0), False, 1, 0)
    with pytest.raises(ValueError, match=f"^policy drawn: {message} of Probe"):
        eager.sample(draw)


@pytest.mark.parametrize(
    "sites", [(WHOLE, Site("velocity")), (Site("velocity"),) * 2, (WHOLE, WHOLE)]
)
def test_what_another_slot_stands_in_for_is_not_kept(sites: tuple, eager: Models) -> None:
    plans = [StepPlan((acts,)) for acts in ((Act.KEEP,) * 2, (Act.KEEP, Act.STAND_IN))]
    with pytest.raises(ValueError, match="slot 0 of pass 0 is to be kept or checked"):
        eager.sample(scripted([(), ()], plans, site=sites))


def test_a_slot_that_is_stood_in_for_cannot_be_watched(eager: Models) -> None:
    watched = Probe("slot", "stand-in")
    rule = Scripted(((), ()), (KEPT, STANDS._replace(watch=(watched,))), (watched,))
    with pytest.raises(ValueError, match="watches a slot that computes nothing"):
        eager.sample(Draw(rule, WHOLE, Reuse(), shifted(2, 3.0), False, 1, 0))


def test_scalars_meant_for_another_stand_in_are_not_taken(eager: Models) -> None:
    """DiCache gives its own stand-in one scalar; OmniCache's wants two of another kind."""

    def sample(text: str) -> torch.Tensor:
        policy = build_policy(text, Parts(CONFIG, OPS))
        draw = Draw(policy.rule, (), None, shifted(6, 3.0), False, 1, 0, slots_of=policy.slots)
        return eager.sample(draw)[0]

    assert sample("dicache:rel_l1_thresh=0.5+omnicache").isfinite().all()
    alone = sample("omnicache:step_list=0,3,gamma=0.5")
    assert not torch.equal(alone, sample("omnicache:step_list=0,3,gamma=0.5,split=1"))
    assert torch.equal(
        sample("reuse:step_list=0,3+ertacache"), sample("reuse:step_list=0,3,form=delta")
    )
