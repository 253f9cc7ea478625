"""Builds the modules of a config: the one table that names the classes of each family."""

from typing import TypeVar

import torch
from torch import nn

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..config import DiTConfig, PredictorConfig
from ..family import VIDEO_10, VIDEO_15
from ..kernels.ops import Ops, get_ops
from .dit import DiT
from .hunyuan_video import HunyuanVideo
from .hunyuan_video_15 import HunyuanVideo15
from .linear import Fp8Linear, replace_linears
from .predictor import Predictor, Predictor10, Predictor15

M = TypeVar("M", bound=nn.Module)

DIT_CLASSES: dict[str, type[DiT]] = {
    VIDEO_10.name: HunyuanVideo,
    VIDEO_15.name: HunyuanVideo15,
}
PREDICTOR_CLASSES: dict[str, type[Predictor10] | type[Predictor15]] = {
    VIDEO_10.name: Predictor10,
    VIDEO_15.name: Predictor15,
}


def build_dit(
    config: DiTConfig,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "meta",
    dtype: torch.dtype = torch.float32,
    fp8_weights: bool = False,
) -> DiT:
    """A DiT with uninitialised weights (the loader or the trainer fills them), in eval mode.

    With `fp8_weights` the linears of its blocks keep theirs in FP8, as the official FP8 files do.
    """
    attention = attention or LocalAttention()
    attention.prepare(config.heads)
    with torch.device("meta"):
        dit = DIT_CLASSES[config.family](config, ops or get_ops("reference"), attention).to(dtype)
    if fp8_weights:
        replace_linears(dit.blocks, Fp8Linear)
    return _allocated(dit, device)


def build_predictor(
    config: PredictorConfig,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "meta",
    dtype: torch.dtype = torch.float32,
) -> Predictor:
    """A predictor with uninitialised weights, in eval mode."""
    attention = attention or LocalAttention()
    attention.prepare(config.heads)
    with torch.device("meta"):
        predictor = PREDICTOR_CLASSES[config.family](
            config, ops or get_ops("reference"), attention
        ).to(dtype)
    return _allocated(predictor, device)


def _allocated(module: M, device: torch.device | str) -> M:
    module = module.eval().requires_grad_(False)
    return module if torch.device(device).type == "meta" else module.to_empty(device=device)
