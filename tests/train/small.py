"""Models of the training tests, small enough to take a step in milliseconds, and their runs."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig
from disca_rt.models.dit import DiT
from disca_rt.tiny.config import TINY
from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train.block_caching import BlockCachingStageConfig
from disca_rt.train.blockdance_ada import BlockDanceAdaStageConfig
from disca_rt.train.build import build_stage
from disca_rt.train.cfg_distill import CFGStageConfig
from disca_rt.train.config import RunConfig
from disca_rt.train.data import Batch, make_reader, read_batch
from disca_rt.train.distributed import World, attention_over, placed
from disca_rt.train.draws import Draws, draw
from disca_rt.train.fastcache import FastCacheStageConfig
from disca_rt.train.flow_matching import BaseStageConfig
from disca_rt.train.harmonica import HarmoniCaStageConfig
from disca_rt.train.initialise import fresh_dit
from disca_rt.train.l2c import L2CStageConfig
from disca_rt.train.lazydit import LazyDiTStageConfig
from disca_rt.train.loss_log import LossLog
from disca_rt.train.meanflow import MeanFlowStageConfig
from disca_rt.train.predictor import PredictorStageConfig
from disca_rt.train.trainer import TrainEvent, train
from disca_rt.weights.save import save_safetensors

SMALL = replace(TINY, hidden=32, heads=2, rope=(4, 6, 6), double=1, single=3)
CFG = replace(SMALL, guidance_embed=True)
MEANFLOW = replace(CFG, meanflow=True)
SMALL_15 = DiTConfig(
    family="hunyuan-video-1.5",
    in_channels=4,
    embed_channels=9,
    patch=(1, 1, 1),
    hidden=32,
    heads=2,
    double=3,
    single=0,
    rope=(4, 6, 6),
    text_dim=24,
    text_dim_2=None,
    byt5_dim=20,
    byt5_hidden=16,
    vision_dim=12,
    guidance_embed=True,
)
RUN = RunConfig(steps=4, batch=4, lr=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)
ALONE = World(0, 1, torch.device("cpu"))


def randomised(config: DiTConfig, seed: int = 0, std: float = 0.15) -> DiT:
    """Make a DiT in which everything matters: no weight is zero."""
    dit = fresh_dit(config, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in dit.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=std, generator=generator)
    return dit


def saved(dit: DiT, path: Path) -> str:
    save_safetensors(path, dit.state_dict(), torch.float32, dit.config)
    return str(path)


@torch.no_grad()
def disturbed(module: nn.Module, std: float = 0.05) -> nn.Module:
    """Move every parameter a little, so that none hides behind a zero gate; it gets gradients."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.requires_grad_(True).parameters():
        parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return module


def batch_and_draws(size: int = 4) -> tuple[Batch, Draws]:
    """Read the first drawn clips, and the random numbers of a step on them."""
    batch = read_batch(make_reader(TrainingClips(), 0), range(size), SMALL)
    return batch, draw(0, range(size), batch.latents.shape[1:], strata=size)


def conditioning_15(batch: int) -> Conditioning:
    """Make a conditioning of SMALL_15 for latents `[batch, 4, 2, 4, 4]`, texts of two lengths."""
    g = torch.Generator().manual_seed(0)
    return Conditioning(
        torch.randn(batch, 3, 24, generator=g),
        torch.tensor([[1, 1, row % 2] for row in range(batch)]),
        byt5_text_states=torch.randn(batch, 2, 20, generator=g),
        byt5_text_mask=torch.ones(batch, 2, dtype=torch.int64),
        vision_states=torch.randn(batch, 2, 12, generator=g),
        cond_latents=torch.randn(batch, 5, 2, 4, 4, generator=g),
    )


def gradients(module: nn.Module) -> list[Tensor]:
    """Copy the gradients of all parameters."""
    return [parameter.grad.clone() for parameter in module.parameters()]


def same_weights(one: Path, other: Path) -> bool:
    """Compare two files bit by bit."""
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in theirs)


def resting(blocks: int, steps: int) -> tuple[float, ...]:
    """Give changes by which, with a delta of 0.5, every second block rests in every second step."""
    return (0.0,) * blocks + ((0.3, 0.9) * blocks)[:blocks] * (steps - 1)


STAGES = {
    "base": BaseStageConfig,
    "cfg": CFGStageConfig,
    "meanflow": partial(MeanFlowStageConfig, derivative="finite-difference"),
    "predictor": partial(PredictorStageConfig, mse_steps=1, discriminator_width=8),
    "l2c": partial(L2CStageConfig, sampling_steps=4, l1=1e-3),
    "harmonica": partial(HarmoniCaStageConfig, sampling_steps=4, l1=1e-3, lambda_c=12),
    "lazydit": partial(LazyDiTStageConfig, sampling_steps=4),
    "blockdance-ada": partial(BlockDanceAdaStageConfig, sampling_steps=4, rollouts=2),
    "block-caching": partial(BlockCachingStageConfig, sampling_steps=4, delta=0.5),
    "fastcache": partial(FastCacheStageConfig, sampling_steps=4),
}
STARTS_FROM = {
    "cfg": {"guidance_embed": False},
    "meanflow": {"guidance_embed": True},
    "predictor": {"guidance_embed": True, "meanflow": True},
    "l2c": {"guidance_embed": False},
    "harmonica": {"guidance_embed": True, "meanflow": True},
    "lazydit": {"guidance_embed": True},
    "blockdance-ada": {"guidance_embed": False},
    "block-caching": {"guidance_embed": True},
    "fastcache": {"guidance_embed": True},
}


def stage_config(name: str, folder: Path, sizes: DiTConfig = SMALL, **changes: Any) -> Any:
    """Configure a run of the stage `name`; weights that it starts from are saved in `folder`."""
    if name == "base":
        return BaseStageConfig(RUN, sizes, **changes)
    start = randomised(replace(sizes, **STARTS_FROM[name]))
    if name == "block-caching":
        changes = {"curves": resting(sizes.double + sizes.single, 4)} | changes
    return STAGES[name](RUN, saved(start, folder / "dit.safetensors"), **changes)


GATES = "l2c", "harmonica", "lazydit"  # methods that learn which branches are computed
CACHE = *GATES, "blockdance-ada", "block-caching", "fastcache"
"""The methods of stage cache, which train no model."""


class Stopped(Exception):
    """Raised in a run that is to go on later."""


def run(
    config: Any,
    folder: Path,
    world: World = ALONE,
    stop_after: int | None = None,
    curves: bool = False,
) -> tuple[Path, list[dict[str, float]]]:
    """Train on drawn clips; returns the weights' path and every step's loss terms.

    Loss curves, which take longer than a step, are drawn only with `curves`.
    """
    terms: list[dict[str, float]] = []

    def on_step(event: TrainEvent) -> None:
        terms.append(event.terms)
        if event.done == stop_after:
            raise Stopped

    attention = attention_over(config.run, world)
    build = partial(build_stage, config, unconditional(), attention, world.device)
    stage = placed(build, config.run, world)
    with nullcontext() if curves else patch.object(LossLog, "draw"):
        path = train(stage, config, TrainingClips(), folder, world, on_step)
    return path, terms
