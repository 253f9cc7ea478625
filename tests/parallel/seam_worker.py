"""One rank of test_seam.py: drawn samples over all ranks are one rank's, decisions too."""

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from hypothesis import given, settings

from cache_draws import CONFIG, OPS, Draw, Models, draws, models
from cache_rules import Watching
from disca_rt.attention.local import LocalAttention
from disca_rt.cache.plan import Probe, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.row import Parts
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.schedule import shifted
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
    check_attention(alone, shared)
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
    watched = (Probe("velocity"), Probe("latents"), Probe("tokens", block=2), Probe("patches"))
    probes = (*watched, Probe("slot", "stand-in"))
    for site in (Site("blocks", 0, 3), Site("velocity")):
        seen: list[list[dict]] = [[], []]
        for each, notes in zip((alone, shared), seen, strict=True):
            rule = Summing(probes, notes)
            each.sample(Draw(rule, site, Reuse(), shifted(3, 3.0), False, 2, 0))
        for one, all_of_them in zip(*(notes[1:] for notes in seen), strict=True):
            for probe in probes:
                assert abs(all_of_them[probe] / one[probe] - 1) <= BOUND, (site, probe)


def check_attention(alone: Models, shared: Models) -> None:
    """Stand-ins at attention see all tokens, and this rank's heads."""
    for text in ATTENDING:
        named = build_policy(text, Parts(CONFIG, OPS))
        sites = tuple(slot.site for slot in named.slots)
        draw = Draw(named.rule, sites, named.slots[0].stand_in, shifted(5, 3.0), True, 2, 0)
        latents, _ = shared.sample(draw)
        expected, _ = alone.sample(draw)
        assert relative_error(latents, expected) <= BOUND, text


ATTENDING = (
    "chipmunk:small,top_keys=0.3,full_step_schedule=0,1,3,voxel_shape=1,1,2",
    "ditfastattn:window_size=1",
    "rainfusion:threshold=0.7,spatial_width=0,temporal_width=0",
)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
