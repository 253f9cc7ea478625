"""Builds a stage from its config: loads the weights it starts from, makes the ones it trains."""

from functools import singledispatch
from typing import Any, NamedTuple

import torch

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..conditioning import Conditioning
from ..config import predictor_config
from ..kernels.ops import Ops, get_ops
from ..models.dit import DiT
from ..weights.load import load_dit
from .block_caching import BlockCachingStage, BlockCachingStageConfig
from .blockdance_ada import BlockDanceAdaStage, BlockDanceAdaStageConfig
from .branch_cache import CacheStage, CacheStageConfig
from .cfg_distill import CFGStage, CFGStageConfig
from .config import RunConfig
from .fastcache import FastCacheStage, FastCacheStageConfig
from .flow_matching import BaseStage, BaseStageConfig
from .harmonica import HarmoniCaStage, HarmoniCaStageConfig
from .initialise import deepened, fresh_dit, fresh_predictor, with_guidance, with_r
from .l2c import L2CStage, L2CStageConfig
from .lazydit import LazyDiTStage, LazyDiTStageConfig
from .meanflow import MeanFlowStage, MeanFlowStageConfig
from .predictor import PredictorStage, PredictorStageConfig
from .stage import Stage


def build_stage(
    config: Any,
    unconditional: Conditioning | None,
    attention: Attention | None = None,
    device: torch.device | str = "cpu",
) -> Stage:
    """Build the stage that `config` describes, on the CPU.

    `unconditional`: the empty prompt's conditioning (batch 1), for base and cfg, and for cache
    where the model embeds no guidance. `attention` goes to all models; None: local. `device` is
    where they will train: ValueError where the run's ops do not run there.
    """
    return _build(config, _BuildInputs(unconditional, attention, get_ops(config.run.ops, device)))


class _BuildInputs(NamedTuple):
    """Inputs of a stage besides its config."""

    unconditional: Conditioning | None
    attention: Attention | None
    ops: Ops

    @property
    def seams(self) -> dict[str, Any]:
        """Keyword arguments of every model's constructor."""
        return {"attention": self.attention, "ops": self.ops}


@singledispatch
def _build(config: Any, given: _BuildInputs) -> Stage:
    raise TypeError(f"not the config of a stage: {config!r}")


@_build.register
def _base(config: BaseStageConfig, given: _BuildInputs) -> Stage:
    seed = config.run.seed
    if config.start is None:
        model = fresh_dit(config.model, seed, **given.seams)
    else:
        model = deepened(_fp32(config.start), config.model, seed, **given.seams)
    return BaseStage(config, model, _needed(given.unconditional))


@_build.register
def _cfg(config: CFGStageConfig, given: _BuildInputs) -> Stage:
    student = with_guidance(_fp32(config.teacher), config.run.seed, **given.seams)
    teacher = _frozen(config.teacher, config.run, given)
    return CFGStage(config, student, teacher, _needed(given.unconditional))


@_build.register
def _meanflow(config: MeanFlowStageConfig, given: _BuildInputs) -> Stage:
    teacher = _frozen(config.teacher, config.run, given)
    if config.derivative == "jvp":  # PyTorch differentiates only the plain one in forward mode
        given = given._replace(attention=LocalAttention("math"))
    student = with_r(_fp32(config.teacher), config.run.seed, **given.seams)
    return MeanFlowStage(config, student, teacher)


@_build.register
def _predictor(config: PredictorStageConfig, given: _BuildInputs) -> Stage:
    dit = _frozen(config.dit, config.run, given)
    sizes = predictor_config(dit.config, config.depth)
    return PredictorStage(config, fresh_predictor(sizes, config.run.seed, **given.seams), dit)


_CACHE_STAGES: dict[type[CacheStageConfig], type[CacheStage]] = {
    L2CStageConfig: L2CStage,
    HarmoniCaStageConfig: HarmoniCaStage,
    LazyDiTStageConfig: LazyDiTStage,
    BlockDanceAdaStageConfig: BlockDanceAdaStage,
    BlockCachingStageConfig: BlockCachingStage,
    FastCacheStageConfig: FastCacheStage,
}


@_build.register
def _cache(config: CacheStageConfig, given: _BuildInputs) -> Stage:
    dit = _frozen(config.dit, config.run, given)
    unconditional = None if dit.config.guidance_embed else _needed(given.unconditional)
    return _CACHE_STAGES[type(config)](config, dit, unconditional)


def _fp32(source: str) -> DiT:
    return load_dit(source, dtype=torch.float32)


def _frozen(source: str, run: RunConfig, given: _BuildInputs) -> DiT:
    """Load a model that others learn from, in the dtype that the run computes in."""
    return load_dit(source, dtype=run.dtype, **given.seams)


def _needed(unconditional: Conditioning | None) -> Conditioning:
    if unconditional is None:
        raise ValueError(
            "this stage needs the conditioning of the empty prompt; give it with --unconditional"
        )
    return unconditional
