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
from .fp8 import put_into_fp8
from .fp8_table import Fp8, fp8_table
from .hunyuan_video import HunyuanVideo
from .hunyuan_video_15 import HunyuanVideo15
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
    fp8: Fp8 = None,
) -> DiT:
    """A DiT with uninitialised weights (the loader or the trainer fills them), in eval mode.

    `fp8`: the layers that compute in FP8, or keep their weights so (`fp8_table`).
    """
    attention, ops = attention or LocalAttention(), ops or get_ops("reference")
    attention.prepare(config.heads)
    with torch.device("meta"):
        dit = DIT_CLASSES[config.family](config, ops, attention).to(dtype)
    dit.fp8 = fp8_table(fp8)
    if dit.fp8 is not None:
        put_into_fp8(dit, dit.blocks, dit.fp8, ops, is_dit=True)
    return _allocated(dit, device)


def build_predictor(
    config: PredictorConfig,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "meta",
    dtype: torch.dtype = torch.float32,
    fp8: Fp8 = None,
) -> Predictor:
    """A predictor with uninitialised weights, in eval mode; `fp8` as of `build_dit`."""
    attention, ops = attention or LocalAttention(), ops or get_ops("reference")
    attention.prepare(config.heads)
    with torch.device("meta"):
        predictor = PREDICTOR_CLASSES[config.family](config, ops, attention).to(dtype)
    predictor.fp8 = fp8_table(fp8)
    if predictor.fp8 is not None:
        put_into_fp8(predictor, predictor.blocks, predictor.fp8, ops, is_dit=False)
    return _allocated(predictor, device)


def _allocated(module: M, device: torch.device | str) -> M:
    module = module.eval().requires_grad_(False)
    return module if torch.device(device).type == "meta" else module.to_empty(device=device)
