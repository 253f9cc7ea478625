"""Dry runs: the memory per rank and the FLOPs of a training step, before anyone buys them.

Parameters of models are counted on the meta device, work by `work.flops`; nothing is allocated.
Attention and activations are those of the longest text.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from ..config import DiTConfig, predictor_config
from ..models.build import build_dit, build_predictor
from ..work.flops import image_tokens, step_flops
from .block_caching import BlockCachingStageConfig
from .blockdance_ada import BlockDanceAdaStageConfig, Decisions
from .branch_cache import CacheStageConfig, count_slots
from .discriminator import SCALES, Discriminator
from .fastcache import FastCacheStageConfig
from .harmonica import HarmoniCaStageConfig
from .lazydit import LazyDiTStageConfig
from .meanflow import MeanFlowStageConfig
from .predictor import PredictorStageConfig, feature_depths
from .presets import StageConfig

FP32 = 4  # bytes
# In tensors of S x C. What a block keeps for its backward, the mean of 1.0's two kinds (measured:
# single-stream 20.2, double-stream 24.3): its input, residuals and norms, q, k, v before and after
# theirs, attention, MLP before and after GELU (4 each). With frozen weights no input of a linear
# (11.2 and 12.3). What embedding, fusion, head and loss keep (5.0; of a predictor 6.2).
KEPT_PER_BLOCK = 22
KEPT_PER_FROZEN_BLOCK = 12
KEPT_PER_WHOLE_BLOCK = 15  # of a frozen block between whole tokens, and its change (measured)
KEPT_AT_THE_ENDS = 6
WORKING_BLOCK = 17  # of a frozen block without a graph, or computed again and mixed (measured)
# A head of the discriminator keeps what two convolutions and two LeakyReLUs make, `width` wide.
LAYERS_PER_HEAD = 4
PYRAMID = sum(scale**-2 for scale in SCALES)  # places of all scales by those of the first


class DiTPasses(NamedTuple):
    """Numbers of DiT forwards per sample and step, by what gradients they need.

    `plain` need none, `trained` those of weights, `through` only those of their inputs.
    """

    plain: float = 0
    trained: float = 0
    through: float = 0


class StepEstimate(NamedTuple):
    """Cost of a training step: `memory` in bytes per rank by its use, `flops` over all ranks.

    `tokens` are those of one sample, image and text.
    """

    memory: dict[str, int]
    flops: int
    tokens: int


def estimate(
    config: StageConfig,
    dit: DiTConfig,
    latent_shape: tuple[int, int, int, int],
    text_tokens: int,
    ranks: int,
) -> StepEstimate:
    """Estimate a step of `config` on `dit`, FSDP over `ranks`; `latent_shape` is (C, T, H, W)."""
    if text_tokens < 1:
        raise ValueError(f"text tokens must be at least 1, got {text_tokens}")
    run, passes = config.run, dit_passes(config, dit)
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
    return StepEstimate(
        memory={
            **_weights(config, dit, ranks),
            "activations": micro * _activations(config, dit, tokens),
        },
        flops=round(run.batch * per_sample),
        tokens=tokens,
    )


def dit_passes(config: StageConfig, dit: DiTConfig) -> DiTPasses:
    """Count a stage's DiT forwards per sample; those of an adversarial step, where it has any.

    HarmoniCa's lambdas, which few steps compute, are left out.
    """
    if isinstance(config, BlockDanceAdaStageConfig):
        first = config.first_steps
        steps = first + (config.rollouts + 1) * (config.sampling_steps - first)
        return DiTPasses(plain=_passes_per_step(dit) * steps)
    if isinstance(config, BlockCachingStageConfig):
        shares = _replaced_steps(config, dit)
        each = _passes_per_step(dit)
        return DiTPasses(plain=each * config.sampling_steps, through=each * sum(shares))
    if isinstance(config, CacheStageConfig):
        if isinstance(config, FastCacheStageConfig):
            return DiTPasses(plain=_passes_per_step(dit))
        pairs = config.sampling_steps - 1 if isinstance(config, HarmoniCaStageConfig) else 1
        each = _passes_per_step(dit)
        return DiTPasses(plain=each * (1 + pairs), through=each * pairs)
    if isinstance(config, PredictorStageConfig):
        return DiTPasses(plain=3, through=1) if config.adversarial else DiTPasses(plain=2)
    if isinstance(config, MeanFlowStageConfig):
        # The teacher, and two more of the student; jvp takes about one more, for its tangents.
        return DiTPasses(plain=2 if config.derivative == "jvp" else 3, trained=1)
    has_teacher = hasattr(config, "teacher")
    return DiTPasses(plain=2 if has_teacher else 0, trained=1)


def _replaced_steps(config: BlockCachingStageConfig, dit: DiTConfig) -> list[float]:
    """List the share of computed blocks of each step that replaces some; all, of no curves."""
    if not config.curves:
        return [1.0] * (config.sampling_steps - 1)
    table = config.table(dit.double + dit.single)
    return [sum(row) / len(row) for row in table if not all(row)]


def _passes_per_step(dit: DiTConfig) -> int:
    """Count the passes of a sampler's step: two under classifier-free guidance."""
    return 1 if dit.guidance_embed else 2


def _weights(config: StageConfig, dit: DiTConfig, ranks: int) -> dict[str, int]:
    model = build_dit(dit)
    whole = _parameters(model)
    largest = max(map(_parameters, model.blocks))
    if isinstance(config, PredictorStageConfig):
        frozen, trained = whole, _parameters(build_predictor(predictor_config(dit, config.depth)))
    elif isinstance(config, BlockDanceAdaStageConfig):
        frozen, trained = whole, _parameters(Decisions(config, dit))
    elif isinstance(config, BlockCachingStageConfig):
        numbers = config.sampling_steps * (dit.double + dit.single) * dit.hidden
        frozen, trained = whole, 2 * numbers
    elif isinstance(config, CacheStageConfig):
        frozen, trained = whole, _learned(config, dit)
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
    rows["gathered blocks"] = gathered
    if isinstance(config, PredictorStageConfig) and config.adversarial:
        # On every rank: weights, gradients, AdamW's two moments.
        rows["discriminator"] = 4 * FP32 * _discriminator(config, dit)
    return rows


def _learned(config: CacheStageConfig, dit: DiTConfig) -> int:
    """Count what is learned for a cache: maps, heads or gates."""
    if isinstance(config, FastCacheStageConfig):
        return (dit.double + dit.single + 1) * (dit.hidden + 1) * dit.hidden
    width = dit.hidden if isinstance(config, LazyDiTStageConfig) else 1
    return config.sampling_steps * count_slots(dit) * width


def _discriminator(config: PredictorStageConfig, dit: DiTConfig) -> int:
    """Count the discriminator's parameters; its depths are all alike."""
    depths = len(feature_depths(dit.double + dit.single))
    return depths * _parameters_of_one_depth(dit.hidden, config.discriminator_width)


@lru_cache
def _parameters_of_one_depth(hidden: int, width: int) -> int:
    with torch.device("meta"):
        return _parameters(Discriminator(hidden, depths=1, width=width))


def _activations(config: StageConfig, dit: DiTConfig, tokens: int) -> int:
    """Bytes of activations per sample at the peak: those kept, and what one part works with.

    Of the exact jvp neither tangents nor the S x S matrices of its plain attention are counted.
    """
    run, passes, blocks = config.run, dit_passes(config, dit), dit.double + dit.single
    tensor = -(-tokens * dit.hidden * run.dtype.itemsize // run.sequence_parallel)
    if isinstance(config, CacheStageConfig):
        return tensor * _cache_tensors(config, dit)
    trained, through = blocks * passes.trained, blocks * passes.through
    if isinstance(config, PredictorStageConfig):
        trained += config.depth
    adversarial = _adversarial(config, dit, tokens) if through else AdversarialBytes()
    if run.activation_checkpointing:
        kept = KEPT_AT_THE_ENDS + trained + through  # of a block its input
        working = max(tensor * KEPT_PER_BLOCK, adversarial.one_depth)
        return tensor * kept + adversarial.features + working
    kept = KEPT_AT_THE_ENDS + KEPT_PER_BLOCK * trained + KEPT_PER_FROZEN_BLOCK * through
    return tensor * kept + adversarial.features + adversarial.all_depths


def _cache_tensors(config: CacheStageConfig, dit: DiTConfig) -> int:
    """Count the tensors of S x C at the peak of a step with a cache; one step's graph is held.

    Of each branch what is cached, what is computed and what is kept for the next step.
    """
    passes, blocks = _passes_per_step(dit), dit.double + dit.single
    if isinstance(
        config, BlockDanceAdaStageConfig
    ):  # no graph; of each draw what is kept, old and new
        return (config.rollouts + 1) * (WORKING_BLOCK + 2 * passes)
    if isinstance(config, BlockCachingStageConfig):  # of each block its changes, old and new
        if config.run.activation_checkpointing:
            return KEPT_AT_THE_ENDS + passes * 2 * blocks + WORKING_BLOCK
        computed = round(blocks * max(_replaced_steps(config, dit), default=0))
        return KEPT_AT_THE_ENDS + passes * (3 * blocks + KEPT_PER_WHOLE_BLOCK * computed)
    if isinstance(config, FastCacheStageConfig):  # tokens after each block, and errors, in fp32
        return KEPT_AT_THE_ENDS + 2 * FP32 // config.run.dtype.itemsize * passes * (blocks + 1)
    branches = 2 * dit.double + dit.single  # of a double-stream block attentions and MLPs
    if config.run.activation_checkpointing:  # what is computed is computed again
        return KEPT_AT_THE_ENDS + passes * (blocks + 2 * branches) + WORKING_BLOCK
    return KEPT_AT_THE_ENDS + passes * (KEPT_PER_FROZEN_BLOCK * blocks + 3 * branches)


class AdversarialBytes(NamedTuple):
    """Bytes per sample that the discriminator needs on every rank, each of which sees all tokens.

    `features` are hidden states that only the discriminator needs; `all_depths` what it keeps of
    real, fake and fake again (`frozen_logits`), in fp32; `one_depth` what it needs to differentiate
    one of its depths, where it keeps nothing.
    """

    features: int = 0
    all_depths: int = 0
    one_depth: int = 0


def _adversarial(config: PredictorStageConfig, dit: DiTConfig, tokens: int) -> AdversarialBytes:
    run, depths = config.run, len(feature_depths(dit.double + dit.single))
    hidden = run.dtype.itemsize * tokens * dit.hidden
    # Fake ones are inputs of blocks anyway, unless they are gathered from ranks.
    sets = 1 if run.sequence_parallel == 1 else 2
    image = FP32 * tokens * dit.hidden  # as fp32, and normalised: kept where it has a gradient
    inside = LAYERS_PER_HEAD * FP32 * tokens * config.discriminator_width
    normed_weights = FP32 * _discriminator(config, dit) // depths
    scales = round(PYRAMID * (image + inside)) + normed_weights
    return AdversarialBytes(
        features=sets * depths * hidden,
        all_depths=depths * (3 * scales + 2 * image),
        one_depth=2 * (scales + 2 * image),  # with the gradients of it
    )


def _parameters(module: nn.Module) -> int:
    with torch.no_grad():
        return sum(parameter.numel() for parameter in module.parameters())
