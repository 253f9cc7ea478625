"""Presets of training: complete runs by stage and name, each a function that returns its config.

"hunyuan-video" has the paper's settings (arXiv 2602.05449 §6.1, 13B), but for where a predictor
begins and how fast its fusions learn. "tiny" is the embedded model on two CPU cores, and
"tiny-images" what goes before it. What is learned for a cache begins with its authors' settings.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..tiny.config import GUIDANCE_SCALE, SCHEDULE, SHIFT, TINY
from .block_caching import BlockCachingStageConfig
from .blockdance_ada import BlockDanceAdaStageConfig
from .branch_cache import CacheStageConfig
from .cfg_distill import CFGStageConfig
from .config import RunConfig
from .fastcache import FastCacheStageConfig
from .flow_matching import BaseStageConfig
from .harmonica import HarmoniCaStageConfig
from .l2c import L2CStageConfig
from .lazydit import LazyDiTStageConfig
from .meanflow import MeanFlowStageConfig
from .predictor import PredictorStageConfig

StageConfig = (
    BaseStageConfig | CFGStageConfig | MeanFlowStageConfig | PredictorStageConfig | CacheStageConfig
)

_TINY_RUN = RunConfig(steps=3_000, batch=8, lr=1e-3, muon_lr=2e-3, bf16=True, decay_steps=2_000)
_PAPER_RUN = RunConfig(
    steps=10_000,
    batch=64,
    micro_batch=1,
    lr=1e-5,
    betas=(0.9, 0.95),
    bf16=True,
    activation_checkpointing=True,
)


def tiny_images(start: str | None = None) -> BaseStageConfig:
    """Configure the embedded model's first stage: single frames, five times as many."""
    run = replace(_TINY_RUN, steps=10_000, batch=40, lr=1.5e-3, muon_lr=3.5e-3, decay_steps=0)
    return BaseStageConfig(run, TINY, start, shift=1.5)


def tiny_base(start: str | None = None) -> BaseStageConfig:
    """Configure the embedded model's base stage: clips, mostly at t where motion is decided."""
    run = replace(_TINY_RUN, steps=9_500, lr=1.2e-3, muon_lr=2.5e-3, decay_steps=8_500)
    return BaseStageConfig(run, TINY, start, shift=8.0)


def tiny_cfg(teacher: str) -> CFGStageConfig:
    run = replace(_TINY_RUN, steps=2_000, lr=4e-4, muon_lr=8e-4, decay_steps=1_500)
    return CFGStageConfig(run, teacher)


def tiny_meanflow(teacher: str) -> MeanFlowStageConfig:
    run = replace(_TINY_RUN, steps=1_000, lr=1e-4, muon_lr=2e-4, decay_steps=800, bf16=False)
    # A difference in fp32 takes 0.6 of the exact jvp's time on a CPU. Weights, because the clips
    # are decided near t = 0.95: du/dt is 128 there, and 5 in the middle.
    return MeanFlowStageConfig(
        run,
        teacher,
        derivative="finite-difference",
        difference_step=5e-4,
        weight_power=1.0,
        shift=SCHEDULE.shift,
    )


def tiny_predictor(dit: str) -> PredictorStageConfig:
    # Half of the run is with the discriminator, half of that at the full rate, and the average
    # forgets all that is before it: or nothing could be said of what the discriminator does.
    run = replace(_TINY_RUN, steps=2_000, lr=2e-3, muon_lr=None, decay_steps=500, ema=0.995)
    return PredictorStageConfig(
        run, dit, mse_steps=1_000, discriminator_width=64, weight_power=1.0, shift=SCHEDULE.shift
    )


def paper_cfg(teacher: str) -> CFGStageConfig:
    return CFGStageConfig(_PAPER_RUN, teacher)


def paper_meanflow(teacher: str) -> MeanFlowStageConfig:
    return MeanFlowStageConfig(_PAPER_RUN, teacher, derivative="finite-difference")


def paper_predictor(dit: str) -> PredictorStageConfig:
    return PredictorStageConfig(replace(_PAPER_RUN, steps=1_500, lr=1e-4), dit)


# The authors' Adam: without warm-up, clipping or an average of what is learned.
_CACHE_RUN = RunConfig(
    steps=10_000,
    batch=64,
    micro_batch=1,
    lr=1e-3,
    betas=(0.9, 0.999),
    warmup_steps=0,
    clip=1e9,
    ema=0.0,
    bf16=True,
    activation_checkpointing=True,
)
_TINY_CACHE_RUN = replace(
    _CACHE_RUN, steps=400, batch=4, micro_batch=None, bf16=False, activation_checkpointing=False
)
_TINY_SAMPLER = {"sampling_steps": 20, "shift": SHIFT, "guidance": GUIDANCE_SCALE}


def tiny_l2c(dit: str) -> L2CStageConfig:
    run = replace(_TINY_CACHE_RUN, lr=2e-2)
    return L2CStageConfig(run, dit, **_TINY_SAMPLER, l1=2e-3)


def tiny_harmonica(dit: str) -> HarmoniCaStageConfig:
    run = replace(_TINY_CACHE_RUN, steps=50, batch=1, lr=0.1)
    return HarmoniCaStageConfig(run, dit, **_TINY_SAMPLER, l1=2e-6)


def tiny_lazydit(dit: str) -> LazyDiTStageConfig:
    run = replace(_TINY_CACHE_RUN, steps=200, lr=1e-2)
    return LazyDiTStageConfig(run, dit, **_TINY_SAMPLER)


def tiny_blockdance_ada(dit: str) -> BlockDanceAdaStageConfig:
    # Fast rates settle on the first list that is good by chance.
    run = replace(_TINY_CACHE_RUN, steps=50, batch=1, lr=5e-3)
    return BlockDanceAdaStageConfig(run, dit, **_TINY_SAMPLER, lambda_q=6.0, rollouts=10)


def tiny_block_caching(dit: str) -> BlockCachingStageConfig:
    run = replace(_TINY_CACHE_RUN, steps=50, batch=1, lr=1e-2)
    return BlockCachingStageConfig(run, dit, **_TINY_SAMPLER, delta=0.4)


def tiny_fastcache(dit: str) -> FastCacheStageConfig:
    run = replace(_TINY_CACHE_RUN, lr=1e-3, decay_steps=200)
    return FastCacheStageConfig(run, dit, **_TINY_SAMPLER)


def paper_l2c(dit: str) -> L2CStageConfig:
    return L2CStageConfig(_CACHE_RUN, dit)


def paper_harmonica(dit: str) -> HarmoniCaStageConfig:
    run = replace(_CACHE_RUN, steps=2_000, batch=1, lr=1e-2)  # a batch is one forward
    return HarmoniCaStageConfig(run, dit)


def paper_lazydit(dit: str) -> LazyDiTStageConfig:
    return LazyDiTStageConfig(replace(_CACHE_RUN, steps=500, lr=1e-2), dit)


def paper_blockdance_ada(dit: str) -> BlockDanceAdaStageConfig:
    return BlockDanceAdaStageConfig(replace(_CACHE_RUN, steps=2_000, batch=16), dit)


def paper_block_caching(dit: str) -> BlockCachingStageConfig:
    return BlockCachingStageConfig(replace(_CACHE_RUN, steps=500, batch=16), dit)


def paper_fastcache(dit: str) -> FastCacheStageConfig:
    """The paper names no settings: these are a choice."""
    return FastCacheStageConfig(replace(_CACHE_RUN, steps=2_000, batch=8, lr=1e-4), dit)


PRESETS: dict[str, dict[str, Callable[..., StageConfig]]] = {
    "base": {"tiny-images": tiny_images, "tiny": tiny_base},
    "cfg": {"tiny": tiny_cfg, "hunyuan-video": paper_cfg},
    "meanflow": {"tiny": tiny_meanflow, "hunyuan-video": paper_meanflow},
    "predictor": {"tiny": tiny_predictor, "hunyuan-video": paper_predictor},
    "cache l2c": {"tiny": tiny_l2c, "hunyuan-video": paper_l2c},
    "cache harmonica": {"tiny": tiny_harmonica, "hunyuan-video": paper_harmonica},
    "cache lazydit": {"tiny": tiny_lazydit, "hunyuan-video": paper_lazydit},
    "cache block-caching": {"tiny": tiny_block_caching, "hunyuan-video": paper_block_caching},
    "cache blockdance-ada": {"tiny": tiny_blockdance_ada, "hunyuan-video": paper_blockdance_ada},
    "cache fastcache": {"tiny": tiny_fastcache, "hunyuan-video": paper_fastcache},
}
"""Presets by stage; those of what is learned for a cache by its method, too."""


def training_config(stage: str, preset: str, source: str | None) -> Any:
    """Configure the run called `preset` of `stage`, from the weights in the file `source`.

    ValueError lists the known names, or asks for weights.
    """
    if preset not in PRESETS[stage]:
        raise ValueError(f"preset must be one of {sorted(PRESETS[stage])}, got {preset!r}")
    if source is None and stage != "base":
        raise ValueError(f"stage {stage} needs the weights it starts from; give them with --from")
    return PRESETS[stage][preset](source)
