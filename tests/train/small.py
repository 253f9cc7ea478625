"""What the training tests train: a model small enough to take a step in milliseconds."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disca_rt.config import DiTConfig
from disca_rt.models.dit import DiT
from disca_rt.tiny.config import TINY
from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train.build import build_stage
from disca_rt.train.cfg_distill import CFGStageConfig
from disca_rt.train.config import RunConfig
from disca_rt.train.distributed import World, attention_over, placed
from disca_rt.train.flow_matching import BaseStageConfig
from disca_rt.train.initialise import fresh_dit
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
    """A DiT in which everything matters: no weight is zero."""
    dit = fresh_dit(config, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in dit.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=std, generator=generator)
    return dit


def saved(dit: DiT, path: Path) -> str:
    save_safetensors(path, dit.state_dict(), torch.float32, dit.config)
    return str(path)


STAGES: dict[str, Callable[[Path], Any]] = {
    "base": lambda folder: BaseStageConfig(RUN, SMALL),
    "cfg": lambda folder: CFGStageConfig(RUN, saved(randomised(SMALL), folder / "dit.safetensors")),
    "meanflow": lambda folder: MeanFlowStageConfig(
        RUN,
        saved(randomised(CFG), folder / "dit.safetensors"),
        derivative="finite-difference",
    ),
    "predictor": lambda folder: PredictorStageConfig(
        RUN,
        saved(randomised(MEANFLOW), folder / "dit.safetensors"),
        mse_steps=1,
        discriminator_width=8,
    ),
}


class Stopped(Exception):
    """A run that is to go on later."""


def run(
    config: Any, folder: Path, world: World = ALONE, stop_after: int | None = None
) -> tuple[Path, list[dict[str, float]]]:
    """Train on drawn clips; the weights' path and every step's loss terms."""
    terms: list[dict[str, float]] = []

    def on_step(event: TrainEvent) -> None:
        terms.append(event.terms)
        if event.done == stop_after:
            raise Stopped

    attention = attention_over(config.run, world)
    build = partial(build_stage, config, unconditional(), attention, world.device)
    stage = placed(build, config.run, world)
    path = train(stage, config, TrainingClips(), folder, world, on_step)
    return path, terms
