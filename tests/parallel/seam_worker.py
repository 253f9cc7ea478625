"""One rank of test_seam.py: drawn samples over all ranks are one rank's, decisions too."""

from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from hypothesis import given, settings

from cache_draws import CONFIG, OPS, Draw, Models, draws, learned_network, models, sampled
from cache_rules import Watching
from disca_rt.attention.local import LocalAttention
from disca_rt.cache.method import Parts
from disca_rt.cache.plan import Probe, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.freqca import FreqCa
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.schedule import shifted
from drawn_edits import MASK, edited
from golden_vectors import relative_error

BOUND = 1e-4  # a decision's sums are taken in another order, as are softmaxes of a ring
TIMEOUT = timedelta(seconds=200)


def main() -> None:
    dist.init_process_group("gloo", timeout=TIMEOUT)
    topology = Topology(dist.group.WORLD, TIMEOUT)
    alone, shared = models(), models(UlyssesAttention(topology, LocalAttention()))

    # All ranks draw the same.
    @settings(max_examples=25, derandomize=True, database=None, deadline=None)
    @given(draw=draws())
    def check(draw: Draw) -> None:
        latents, plans = shared.sample(draw)
        everyone: list[object] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (latents, plans))
        assert all(theirs == plans for _, theirs in everyone), draw
        assert all(torch.equal(theirs, latents) for theirs, _ in everyone), draw
        expected, decided = alone.sample(draw)
        assert [acts(plan) for plan in decided] == [acts(plan) for plan in plans], draw
        assert relative_error(latents, expected) <= BOUND, draw

    check()
    check_sums(alone, shared)
    check_forecasts(alone, shared)
    check_placed(alone, shared)
    check_rows(alone, shared)
    check_attention(alone, shared)
    check_edits(alone, shared)
    dist.barrier()
    dist.destroy_process_group()


def acts(plan: StepPlan) -> StepPlan:
    """The plan without scalars that were measured: their sums are taken in another order."""
    return plan._replace(given=(), given_by_pass=())


@dataclass(frozen=True)
class Summing(Watching):
    """Notes the sums themselves, not their ratio."""

    __hash__ = Watching.__hash__

    def remember(self, setting, step, plan, seen, memory) -> None:
        self.seen.append({probe: measured.numerator for probe, measured in seen.items()})


def check_sums(alone: Models, shared: Models) -> None:
    """Sums over all ranks are one rank's, also of tensors that each rank has as a whole."""
    watched = (Probe("velocity"), Probe("latents"), Probe("tokens", after=2), Probe("patches"))
    probes = (*watched, Probe("slot", "stand-in"))
    for site in (Site("blocks", 0, 3), Site("velocity")):
        seen: list[list[dict]] = [[], []]
        for each, notes in zip((alone, shared), seen, strict=True):
            rule = Summing(probes, notes)
            each.sample(Draw(rule, site, Reuse(), shifted(3, 3.0), False, 2, 0))
        for one, all_of_them in zip(*(notes[1:] for notes in seen), strict=True):
            for probe in probes:
                assert abs(all_of_them[probe] / one[probe] - 1) <= BOUND, (site, probe)
    check_motion(alone, shared)


def check_motion(alone: Models, shared: Models) -> None:
    """Motion needs frames whole, which no rank has."""
    probe = Probe("slot", "stand-in", norm="motion")
    seen: list[list[dict]] = [[], []]
    site = Site("branch", 0, 1, ("img_attn",), gated=True)
    for each, notes in zip((alone, shared), seen, strict=True):
        each.sample(Draw(Watching((probe,), notes), site, Reuse(), shifted(3, 3.0), False, 2, 0))
    for one, all_of_them in zip(*(notes[1:] for notes in seen), strict=True):
        assert abs(all_of_them[probe] / one[probe] - 1) <= BOUND


def check_forecasts(alone: Models, shared: Models) -> None:
    """Bands of all tokens, and the verdicts about drafts, are one rank's."""
    speca = build_policy("speca:min_taylor_steps=1,base_threshold=3", Parts(CONFIG, OPS))
    branches = tuple(slot.site for slot in speca.slots)
    for rule, site, stand_in in (
        (Interval(3, 2), Site("blocks", 0, 4), FreqCa(OPS, first_enhance=1, cutoff_ratio=0.6)),
        (Interval(3, 2), Site("blocks", 0, 4), FreqCa(OPS, 2, 1, 1, decompose_method="DCT")),
        (speca.rule, branches, speca.slots[0].stand_in),
        (replace(speca.rule, mode="rollback"), branches, speca.slots[0].stand_in),
    ):
        draw = Draw(rule, site, stand_in, shifted(8, 3.0), True, 2, 1)
        (expected, decided), (latents, plans) = (each.sample(draw) for each in (alone, shared))
        assert plans == decided, draw
        assert relative_error(latents, expected) <= BOUND, draw


PLACED = (
    "fastercache:spatial_attention_timestep_skip_range=-1,990,"
    "unconditional_batch_timestep_skip_range=-1,990",
    "mixcache:theta=inf,d=0.3,0.7,I_cfg=0.5",
    "t-gate:gate_step=4,sp_interval=2,fi_interval=2,warm_up=0",
)


def check_placed(alone: Models, shared: Models) -> None:
    """Policies with slots of several levels, of one pass, that read the other pass or latents."""
    for text in (*PLACED, f"blockdance-ada:net={learned_network(8, 2)}"):
        policy = build_policy(text, Parts(CONFIG, OPS))
        for guided in (False, True):
            draw = Draw(policy.rule, (), None, shifted(8, 3.0), guided, 2, 4, slots_of=policy.slots)
            (latents, plans), (expected, decided) = shared.sample(draw), alone.sample(draw)
            assert plans == decided, text
            assert relative_error(latents, expected) <= BOUND, text
            assert len({plan.passes for plan in plans}) > 1, text


def check_rows(alone: Models, shared: Models) -> None:
    """Subsets of rows are the same ones, and queries of some rows meet the keys of all ranks."""
    for text in (
        "toca:fresh_threshold=3,fresh_ratio=0.8",
        "duca:fresh_threshold=4,fresh_ratio=0.8",
        "ras:scheduler_start_step=2,error_reset_steps=5,sample_ratio=0.4,high_ratio=0.5",
        "fastcache:bound=0.02,motion_threshold=0.75,background=0.3",
        "fastcache:bound=0.3",
        "fasterdiffusion:prior_noise=0.05",
    ):
        for begins in (False, True):
            draw = Draw(None, (), None, shifted(8, 3.0), True, 2, 1, begins)
            assert relative_error(sampled(shared, draw, text), sampled(alone, draw, text)) <= BOUND


def check_edits(alone: Models, shared: Models) -> None:
    """Of three masks: one has no row on some ranks, and one has them all."""
    one = torch.zeros_like(MASK)
    one[1, 1, 1] = 1
    for mask in (MASK, one, torch.ones_like(MASK)):
        for begins in (False, True):
            draw = Draw(None, (), None, shifted(8, 3.0), True, 2, 1, begins)
            expected = edited(alone, draw, "edit:fresh_threshold=3", mask)
            latents = edited(shared, draw, "edit:fresh_threshold=3", mask)
            assert relative_error(latents, expected) <= BOUND


def check_attention(alone: Models, shared: Models) -> None:
    """Stand-ins at attention see all tokens, and this rank's heads."""
    for text in ATTENDING:
        policy = build_policy(text, Parts(CONFIG, OPS))
        draw = Draw(policy.rule, (), None, shifted(5, 3.0), True, 2, 0, slots_of=policy.slots)
        (latents, _), (expected, _) = shared.sample(draw), alone.sample(draw)
        assert relative_error(latents, expected) <= BOUND, text


ATTENDING = (
    "chipmunk:small,top_keys=0.3,full_step_schedule=0,1,3,voxel_shape=1,1,2",
    "ditfastattn:window_size=1",
    "rainfusion:threshold=0.7,spatial_width=0,temporal_width=0",
)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
