"""One rank of test_recording.py: numbers that ranks record together are one rank's."""

import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from cache_draws import CONFIG, CPU, OPS, SCALE
from disca_rt.attention.local import LocalAttention
from disca_rt.attention.protocol import Attention
from disca_rt.calibration.session import Session
from disca_rt.calibration.store import Store
from disca_rt.conditioning import Conditioning
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.build import build_dit
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import shifted

TIMEOUT = timedelta(seconds=200)
BY_RANK = "impacts/block"  # the noise is of a rank's own rows


def main() -> None:
    dist.init_process_group("gloo", timeout=TIMEOUT)
    topology = Topology(dist.group.WORLD, TIMEOUT)
    shared = recorded(UlyssesAttention(topology, LocalAttention()), Path(sys.argv[1]))
    everyone: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, shared)
    with tempfile.TemporaryDirectory() as folder:
        alone = recorded(None, Path(folder))
    for name, numbers in alone.items():
        for theirs in everyone:
            assert torch.equal(theirs[name].nan_to_num(), shared[name].nan_to_num()), name
        if not name.startswith(BY_RANK):
            near = torch.allclose(shared[name], numbers, rtol=1e-3, atol=1e-5, equal_nan=True)
            assert near, (name, shared[name], numbers)
    dist.barrier()
    dist.destroy_process_group()


def recorded(attention: Attention | None, folder: Path) -> dict[str, torch.Tensor]:
    dit = build_dit(CONFIG, ops=OPS, attention=attention, device=CPU, dtype=torch.float32)
    fill_randomly(dit, 0)
    session = Session(Runtime(dit), [request()], Store(folder), 60_000, has_maps=True)
    is_first = attention is None or dist.get_rank() == 0
    return session.record(writes=is_first).of_prompts[0]


def request() -> Request:
    generator = torch.Generator().manual_seed(3)
    positive = Conditioning(
        torch.randn(1, 3, CONFIG.text_dim, generator=generator),
        torch.ones(1, 3, dtype=torch.long),
        torch.randn(1, CONFIG.text_dim_2, generator=generator),
    )
    return Request(
        schedule=shifted(4, 3.0),
        policy="full",
        conditioning=positive,
        negative=replace(positive, text_states=positive.text_states.flip(2)),
        classifier_free_scale=SCALE,
        latent_shape=(CONFIG.in_channels, 2, 4, 4),
    )


if __name__ == "__main__":
    main()
