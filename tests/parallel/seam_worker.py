"""One rank of test_cache_seam.py: drawn samples over all ranks are one rank's, decisions too."""

from datetime import timedelta

import torch
import torch.distributed as dist
from hypothesis import given, settings

from cache_draws import Draw, draws, models
from disca_rt.attention.local import LocalAttention
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
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
        assert decided == plans, draw
        assert relative_error(latents, expected) <= BOUND, draw

    check()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
