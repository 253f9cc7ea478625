"""From a run's config to its stage: loads what it starts from, and makes what it trains."""

from functools import singledispatch
from typing import Any

import torch

from ..attention import LocalAttention
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
def build_stage(config: Any, unconditional: Conditioning | None) -> Stage:
    """The stage that `config` describes, on the CPU.

    `unconditional` (batch 1) is what the base and cfg stages put in place of a conditioning.
    """
    raise TypeError(f"not the config of a stage: {config!r}")


@build_stage.register
def _base(config: BaseStageConfig, unconditional: Conditioning | None) -> Stage:
    seed = config.run.seed
    if config.start is None:
        model = fresh_dit(config.model, seed)
    else:
        model = deepened(_fp32(config.start), config.model, seed)
    return BaseStage(config, model, _needed(unconditional))


@build_stage.register
def _cfg(config: CFGStageConfig, unconditional: Conditioning | None) -> Stage:
    student = with_guidance(_fp32(config.teacher), config.run.seed)
    return CFGStage(config, student, _frozen(config.teacher, config.run), _needed(unconditional))


@build_stage.register
def _meanflow(config: MeanFlowStageConfig, unconditional: Conditioning | None) -> Stage:
    # PyTorch differentiates only the plain attention in forward mode.
    attention = LocalAttention("math" if config.derivative == "jvp" else "sdpa")
    student = with_r(_fp32(config.teacher), config.run.seed, attention)
    return MeanFlowStage(config, student, _frozen(config.teacher, config.run))


@build_stage.register
def _predictor(config: PredictorStageConfig, unconditional: Conditioning | None) -> Stage:
    dit = _frozen(config.dit, config.run)
    predictor = fresh_predictor(predictor_config(dit.config, config.depth), config.run.seed)
    return PredictorStage(config, predictor, dit)


def _fp32(source: str) -> DiT:
    return load_dit(source, dtype=torch.float32)


def _frozen(source: str, run: RunConfig) -> DiT:
    """What others learn from, in the dtype that the run computes in."""
    return load_dit(source, dtype=run.dtype)


def _needed(unconditional: Conditioning | None) -> Conditioning:
    if unconditional is None:
        raise ValueError(
            "this stage needs the conditioning of the empty prompt; give it with --unconditional"
        )
    return unconditional
