"""What a step of a stage would take, before anyone buys it: memory per rank and FLOPs.

Parameters are counted on the meta device, work by `disca_rt.flops`; nothing is allocated. Attention
and activations are those of the longest text.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..config import DiTConfig, predictor_config
from ..flops import image_tokens, step_flops
from ..models.build import build_dit, build_predictor
from .meanflow import MeanFlowStageConfig
from .predictor import PredictorStageConfig, feature_depths
from .presets import StageConfig

FP32 = 4  # bytes
# What a block keeps for its backward, in tensors of S x C. Single-stream: input, its norm, q, k, v
# before and after their norm, attention in and out, MLP before and after GELU (4 each), the input
# of linear2 (5). A double-stream block keeps about as much.
KEPT_PER_BLOCK = 22


@dataclass(frozen=True)
class Passes:
    """How often a step runs the DiT per sample: without gradient, with it, through it only."""

    plain: int = 0
    trained: int = 0
    through: int = 0


@dataclass(frozen=True)
class Estimate:
    """`memory` in bytes per rank by what it is for; `flops` per step over all ranks."""

    memory: dict[str, int]
    flops: int
    tokens: int


def estimate(
    config: StageConfig,
    dit: DiTConfig,
    latent_shape: tuple[int, int, int, int],
    text_tokens: int,
    ranks: int,
) -> Estimate:
    """A step of `config` on `dit`, FSDP over `ranks`; `latent_shape` is (C, T, H, W)."""
    if text_tokens < 1:
        raise ValueError(f"text tokens must be at least 1, got {text_tokens}")
    run, passes = config.run, dit_passes(config)
    micro = run.rank_batch(ranks) // run.micro_batches(ranks)
    tokens = image_tokens(dit, latent_shape) + text_tokens
    depth = config.depth if isinstance(config, PredictorStageConfig) else 0
    work = step_flops(dit, predictor_config(dit, max(1, depth)), latent_shape, text_tokens)
    with_gradient = 3 + run.activation_checkpointing
    per_sample = work.full * (
        passes.plain + with_gradient * passes.trained + (with_gradient - 1) * passes.through
    )
    if depth:
        per_sample += with_gradient * work.predicted
    return Estimate(
        memory={
            **_weights(config, dit, ranks),
            "activations": micro * _activations(config, dit, tokens),
        },
        flops=run.batch * per_sample,
        tokens=tokens,
    )


def dit_passes(config: StageConfig) -> Passes:
    """Of the adversarial steps, where a stage has them."""
    if isinstance(config, PredictorStageConfig):
        return Passes(plain=3, through=1) if config.adversarial else Passes(plain=2)
    if isinstance(config, MeanFlowStageConfig):
        # The teacher, and two more of the student; jvp takes about one more, for its tangents.
        return Passes(plain=2 if config.derivative == "jvp" else 3, trained=1)
    has_teacher = hasattr(config, "teacher")
    return Passes(plain=2 if has_teacher else 0, trained=1)


def _weights(config: StageConfig, dit: DiTConfig, ranks: int) -> dict[str, int]:
    model = build_dit(dit)
    whole = _parameters(model)
    largest = max(map(_parameters, model.blocks))
    if isinstance(config, PredictorStageConfig):
        frozen, trained = whole, _parameters(build_predictor(predictor_config(dit, config.depth)))
    else:
        frozen, trained = (whole if hasattr(config, "teacher") else 0), whole
    compute = config.run.dtype.itemsize
    shared = {
        "frozen weights": compute * frozen,
        "trained weights": FP32 * trained,
        "gradients": FP32 * trained,
        "optimizer": 2 * FP32 * trained,
        "moving average": FP32 * trained,
    }
    rows = {name: -(-size // ranks) for name, size in shared.items()}
    gathered = 2 * compute * largest if ranks > 1 else 0  # a block, and the next one under way
    return {**rows, "gathered blocks": gathered}


def _activations(config: StageConfig, dit: DiTConfig, tokens: int) -> int:
    """Bytes per sample that wait for the backward, and what one block needs meanwhile."""
    whole = tokens * dit.hidden * config.run.dtype.itemsize
    tensor = -(-whole // config.run.sequence_parallel)
    passes, blocks = dit_passes(config), dit.double + dit.single
    kept = blocks * (passes.trained + passes.through)
    if isinstance(config, PredictorStageConfig):
        kept += config.depth
        # The discriminator sees all tokens on every rank.
        features = 2 * len(feature_depths(blocks)) * whole if config.adversarial else 0
    else:
        features = 0
    if config.run.activation_checkpointing:
        return tensor * (kept + KEPT_PER_BLOCK) + features
    return tensor * kept * KEPT_PER_BLOCK + features


def _parameters(module: nn.Module) -> int:
    with torch.no_grad():
        return sum(parameter.numel() for parameter in module.parameters())
