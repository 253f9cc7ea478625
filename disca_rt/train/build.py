"""From a run's config to its stage: loads what it starts from, and makes what it trains."""

from functools import singledispatch
from typing import Any

import torch

from ..attention import Attention, LocalAttention
from ..config import predictor_config
from ..models.conditioning import Conditioning
from ..models.dit import DiT
from ..weights.load import load_dit
from .cfg_distill import CFGStage, CFGStageConfig
from .config import RunConfig
from .flow_matching import BaseStage, BaseStageConfig
from .initialise import deepened, fresh_dit, fresh_predictor, with_guidance, with_r
from .meanflow import MeanFlowStage, MeanFlowStageConfig
from .predictor import PredictorStage, PredictorStageConfig
from .stage import Stage


@singledispatch
def build_stage(
    config: Any, unconditional: Conditioning | None, attention: Attention | None = None
) -> Stage:
    """The stage that `config` describes, on the CPU.

    `unconditional` (batch 1) is what the base and cfg stages put in place of a conditioning.
    `attention` is what all models get; None: local.
    """
    raise TypeError(f"not the config of a stage: {config!r}")


@build_stage.register
def _base(
    config: BaseStageConfig, unconditional: Conditioning | None, attention: Attention | None = None
) -> Stage:
    seed = config.run.seed
    if config.start is None:
        model = fresh_dit(config.model, seed, attention)
    else:
        model = deepened(_fp32(config.start), config.model, seed, attention)
    return BaseStage(config, model, _needed(unconditional))


@build_stage.register
def _cfg(
    config: CFGStageConfig, unconditional: Conditioning | None, attention: Attention | None = None
) -> Stage:
    student = with_guidance(_fp32(config.teacher), config.run.seed, attention)
    teacher = _frozen(config.teacher, config.run, attention)
    return CFGStage(config, student, teacher, _needed(unconditional))


@build_stage.register
def _meanflow(
    config: MeanFlowStageConfig,
    unconditional: Conditioning | None,
    attention: Attention | None = None,
) -> Stage:
    teacher = _frozen(config.teacher, config.run, attention)
    if config.derivative == "jvp":  # PyTorch differentiates only the plain one in forward mode
        attention = LocalAttention("math")
    student = with_r(_fp32(config.teacher), config.run.seed, attention)
    return MeanFlowStage(config, student, teacher)


@build_stage.register
def _predictor(
    config: PredictorStageConfig,
    unconditional: Conditioning | None,
    attention: Attention | None = None,
) -> Stage:
    dit = _frozen(config.dit, config.run, attention)
    sizes = predictor_config(dit.config, config.depth)
    return PredictorStage(config, fresh_predictor(sizes, config.run.seed, attention), dit)


def _fp32(source: str) -> DiT:
    return load_dit(source, dtype=torch.float32)


def _frozen(source: str, run: RunConfig, attention: Attention | None) -> DiT:
    """What others learn from, in the dtype that the run computes in."""
    return load_dit(source, dtype=run.dtype, attention=attention)


def _needed(unconditional: Conditioning | None) -> Conditioning:
    if unconditional is None:
        raise ValueError(
            "this stage needs the conditioning of the empty prompt; give it with --unconditional"
        )
    return unconditional
