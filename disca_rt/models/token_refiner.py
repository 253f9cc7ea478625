"""`txt_in`: LLM states to text tokens, conditioned on t and on the mean of the states.

Because it depends on t it runs at every step, full or predicted, on text tokens only. Affine
LayerNorms, no QK norm, no RoPE, SiLU MLP, gates without shift or scale (LI-DiT, arXiv 2406.11831).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention.protocol import Attention, NoOverlap
from ..config import DiTConfig
from ..kernels.ops import Ops
from ..tokens import TokenLayout
from .layers import TimestepEmbedder
from .linear import Linear, qkv_linear


class TokenRefiner(nn.Module):
    def __init__(self, ops: Ops, attention: Attention, config: DiTConfig) -> None:
        super().__init__()
        self.input_embedder = Linear(config.text_dim, config.hidden)
        self.t_embedder = TimestepEmbedder(config.hidden)
        self.c_embedder = TextProjection(config.text_dim, config.hidden)
        self.individual_token_refiner = RefinerBlocks(ops, attention, config)

    def forward(self, states: Tensor, t: Tensor, layout: TokenLayout) -> Tensor:
        """`states [B, L, text_dim]` valid first, `t [B]`, layout of the text -> `[B, L, C]`."""
        c = self.t_embedder(t) + self.c_embedder(_masked_mean(states, layout.lengths))  # [B, C]
        return self.individual_token_refiner(self.input_embedder(states), c, layout)


def _masked_mean(states: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return states.float().mean(dim=1).to(states.dtype)
    valid = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    total = (states.float() * valid[..., None]).sum(dim=1)
    return (total / lengths[:, None]).to(states.dtype)


class TextProjection(nn.Module):
    """`c_embedder`: Linear, SiLU, Linear on `[B, text_dim]`."""

    def __init__(self, in_dim: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = Linear(in_dim, hidden)
        self.linear_2 = Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class RefinerBlocks(nn.Module):
    def __init__(self, ops: Ops, attention: Attention, config: DiTConfig) -> None:
        super().__init__()
        blocks = (
            RefinerBlock(ops, attention, config.hidden, config.heads) for _ in range(config.refiner)
        )
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, c: Tensor, layout: TokenLayout) -> Tensor:
        for block in self.blocks:
            x = block(x, c, layout)
        return x


class RefinerBlock(nn.Module):
    def __init__(self, ops: Ops, attention: Attention, hidden: int, heads: int) -> None:
        super().__init__()
        self.ops, self.attention, self.heads = ops, attention, heads
        self.norm1 = nn.LayerNorm(hidden)
        self.self_attn_qkv = qkv_linear(hidden)
        self.self_attn_proj = Linear(hidden, hidden)
        self.norm2 = nn.LayerNorm(hidden)
        self.mlp = RefinerMLP(hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, c: Tensor, layout: TokenLayout) -> Tensor:
        gate_msa, gate_mlp = self.adaLN_modulation(c).chunk(2, dim=-1)
        x = self.ops.gate_residual(x, self._attend(x, layout), gate_msa)
        normed = self.ops.layer_norm(x, self.norm2)
        return self.ops.gate_residual(x, self.mlp(normed), gate_mlp)

    def _attend(self, x: Tensor, layout: TokenLayout) -> Tensor:
        normed = self.ops.layer_norm(x, self.norm1)
        heads = (self.heads, -1)
        attention = self.attention.begin(layout)
        attention.put_v(self.self_attn_qkv.rows["v"](normed).unflatten(-1, heads))
        attention.put_k(self.self_attn_qkv.rows["k"](normed).unflatten(-1, heads))
        attention.put_q(self.self_attn_qkv.rows["q"](normed).unflatten(-1, heads))
        return self.self_attn_proj(attention.result(NoOverlap()))


class RefinerMLP(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(hidden, 4 * hidden)
        self.fc2 = Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)))
