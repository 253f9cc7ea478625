"""From a config to a module: the one table that names the classes of each family."""

import torch

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..config import DiTConfig, PredictorConfig
from ..kernels.ops import Ops, get_ops
from .dit import DiT
from .hunyuan_video import HunyuanVideo
from .hunyuan_video_15 import HunyuanVideo15
from .predictor import Predictor, Predictor10, Predictor15

DIT_CLASSES: dict[str, type[DiT]] = {
    "hunyuan-video-1.0": HunyuanVideo,
    "hunyuan-video-1.5": HunyuanVideo15,
}
PREDICTOR_CLASSES: dict[str, type[Predictor10] | type[Predictor15]] = {
    "hunyuan-video-1.0": Predictor10,
    "hunyuan-video-1.5": Predictor15,
}


def build_dit(
    config: DiTConfig,
    ops: Ops | None = None,
    attention: Attention | None = None,
    device: torch.device | str = "meta",
    dtype: torch.dtype = torch.float32,
) -> DiT:
    """A DiT with uninitialised weights (the loader or the trainer fills them), in eval mode."""
    attention = attention or LocalAttention()
    attention.prepare(config.heads)
    with torch.device("meta"):
        dit = DIT_CLASSES[config.family](config, ops or get_ops("reference"), attention)
    return _materialise(dit, device, dtype)


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
        predictor = PREDICTOR_CLASSES[config.family](config, ops or get_ops("reference"), attention)
    return _materialise(predictor, device, dtype)


def _materialise(
    module: torch.nn.Module, device: torch.device | str, dtype: torch.dtype
) -> torch.nn.Module:
    module = module.to(dtype).eval().requires_grad_(False)
    return module if torch.device(device).type == "meta" else module.to_empty(device=device)
