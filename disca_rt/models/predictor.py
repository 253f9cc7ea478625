"""DisCa's learned cache (arXiv 2602.05449 §3.2): two blocks that continue from one cached tensor.

`current` are this step's embedded tokens before any block, `cached` the tokens after the last block
of the last full step, both joint `[B, S, C]`, image first. The head is the DiT's own.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from ..attention.protocol import Attention
from ..config import PredictorConfig
from ..kernels.ops import Ops
from ..tokens import StepContext
from .blocks import DoubleStreamBlock, SingleStreamBlock, run_blocks
from .fp8_table import Fp8Table
from .linear import Linear


class FusionMLP(nn.Sequential):
    """Linear(2C→C), SiLU, Linear(C→C) on [current, cached] without the concatenation."""

    def __init__(self, ops: Ops, hidden: int) -> None:
        super().__init__(Linear(2 * hidden, hidden), nn.SiLU(), Linear(hidden, hidden))
        self.ops = ops

    def forward(self, current: Tensor, cached: Tensor) -> Tensor:
        return self[2](self.fuse(current, cached))

    def fuse(self, current: Tensor, cached: Tensor) -> Tensor:
        """The first Linear and SiLU: `[B, S, C]`."""
        return self.ops.fuse_cached(current, cached, self[0])


class Predictor10(nn.Module):
    """HunyuanVideo 1.0: one fusion over all tokens, then single-stream blocks."""

    fp8: Fp8Table | None = None

    def __init__(self, config: PredictorConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.config = config
        self.fusion_mlp = FusionMLP(ops, config.hidden)
        self.mm_single_blocks = nn.ModuleList(
            SingleStreamBlock(ops, attention, config.hidden, config.heads)
            for _ in range(config.depth)
        )

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.mm_single_blocks

    def forward(self, current: Tensor, cached: Tensor, context: StepContext) -> Tensor:
        tokens = self.fusion_mlp(current, cached)
        return run_blocks(self.mm_single_blocks, tokens, context)


class Predictor15(nn.Module):
    """HunyuanVideo 1.5: one fusion per stream, then double-stream blocks."""

    fp8: Fp8Table | None = None

    def __init__(self, config: PredictorConfig, ops: Ops, attention: Attention) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        self.fusion_mlp_img = FusionMLP(ops, config.hidden)
        self.fusion_mlp_txt = FusionMLP(ops, config.hidden)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(ops, attention, config.hidden, config.heads, merged=False)
            for _ in range(config.depth)
        )

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.double_blocks

    def forward(self, current: Tensor, cached: Tensor, context: StepContext) -> Tensor:
        img_len = context.layout.img_len
        img = self.fusion_mlp_img.fuse(current[:, :img_len], cached[:, :img_len])
        txt = self.fusion_mlp_txt.fuse(current[:, img_len:], cached[:, img_len:])
        tokens = self.ops.joint_linear(img, txt, self.fusion_mlp_img[2], self.fusion_mlp_txt[2])
        return run_blocks(self.double_blocks, tokens, context)


Predictor = Predictor10 | Predictor15
