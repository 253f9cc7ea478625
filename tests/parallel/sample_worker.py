"""One rank of test_samples.py: samples over the first N ranks, for every N, against one rank's.

Run as `torchrun ... sample_worker.py`; ends with an error where anything differs.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from disca_rt.attention.local import LocalAttention
from disca_rt.attention.protocol import Attention
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset
from disca_rt.tiny.runtime import DIT, PREDICTOR, with_tiny_prompts

BOUND = 1e-5  # of the largest value; without a ring nothing is summed in another order
BASE = Path(__file__).parents[2] / "ladder" / "base.safetensors"
TIMEOUT = timedelta(seconds=300)
PROMPTS = [
    "a red circle moving left on a black background",
    "a small blue square moving up",  # a shorter one: padding
]


class Case(NamedTuple):
    """`chunks` and `degree` are the attention's; the rest is a sample's.

    `guided`: by the base model, in two passes.
    """

    policy: str = "disca"
    chunks: int = 1
    degree: int = 0
    prompts: int = 1
    guided: bool = False

    def sample(self, attention: Attention) -> Tensor:
        models = (BASE, None) if self.guided else (DIT, PREDICTOR)
        runtime = with_tiny_prompts(Runtime.load(*models, dtype=torch.float32, attention=attention))
        seed = 0 if isinstance(attention, LocalAttention) else dist.get_rank()  # the first counts
        return runtime.generate(
            PROMPTS[: self.prompts],
            frames=9,
            height=20,
            width=28,
            guidance_scale=3.0,
            schedule=preset(4, shift=5.0, step_list=(0, 2)),
            policy=self.policy,
            seed=seed,
        ).latents


def cases(ranks: int) -> Iterator[Case]:
    yield Case(degree=ranks)
    if ranks == 3:
        yield Case(chunks=3, prompts=2)
        yield Case(policy="taylor", guided=True)
    if ranks == 2:
        yield Case(policy="reuse")
        yield Case(policy="hermite")
        yield Case(policy="full")
    if ranks == dist.get_world_size():  # a ring makes groups, which all ranks must do alike
        yield Case(degree=ranks // 2)
        yield Case(degree=2, prompts=2)


def main() -> None:
    dist.init_process_group("gloo", timeout=TIMEOUT)
    rank, alone = dist.get_rank(), {}
    # All of them first: the groups of a ring are numbered by those that a rank is in already.
    for ranks in range(dist.get_world_size(), 0, -1):
        group = dist.new_group(range(ranks))
        if rank >= ranks:
            continue
        for case in cases(ranks):
            topology = Topology(group, TIMEOUT, ulysses_degree=case.degree)
            attention = UlyssesAttention(topology, LocalAttention("auto"), case.chunks)
            latents = case.sample(attention)
            everyone = [torch.empty_like(latents) for _ in range(ranks)]
            dist.all_gather(everyone, latents, group=group)
            assert all(torch.equal(latents, theirs) for theirs in everyone), f"{ranks}: {case}"
            if rank == 0:
                kind = case._replace(chunks=1, degree=0)
                if kind not in alone:
                    alone[kind] = case.sample(LocalAttention("auto"))
                error = (latents - alone[kind]).abs().max() / alone[kind].abs().max()
                print(f"{ranks} ranks, {case}: {error:.1e}", flush=True)
                bound = BOUND if 0 < case.degree < ranks else 0.0
                assert error <= bound, f"{ranks} ranks, {case}: {error:.1e} away"
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
