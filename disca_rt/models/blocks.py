"""The two kinds of DiT block, used by both models and by both predictors.

A block takes joint tokens `[B, S, C]`, image first, and returns them: every kind has the same
signature, so a cache policy can run all blocks, a range, or none. A policy can also stand in for
one branch of a block through `branches`; `out` is where the result would be welcome (a hint).
Blocks know no cache, no graph and no rank.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..attention import Attention, TokenLayout
from ..kernels.ops import Ops
from .layers import MLP, HeadNorm, Modulation, QKVLinear

T = TypeVar("T")


class BlockContext(NamedTuple):
    """What every block of one step shares: `vec [B, C]`, rotary tables `[S_img, D/2]`, layout."""

    vec: Tensor
    freqs_cos: Tensor
    freqs_sin: Tensor
    layout: TokenLayout


Branches = Callable[[str, Callable[[], Tensor]], Tensor]
"""Called as `branches(name, compute)` for each branch, the tensor before its gate.

Returns `compute()`, or something in its place; then `compute` never runs.
"""


def compute_branch(name: str, compute: Callable[[], Tensor]) -> Tensor:
    """The `Branches` of a block that nobody stands in for."""
    return compute()


def once(compute: Callable[[], T]) -> Callable[[], T]:
    """`compute`, run at the first call only. torch.compile would see through `functools.cache`."""
    results: list[T] = []

    def first_result() -> T:
        if not results:
            results.append(compute())
        return results[0]

    return first_result


def run_blocks(
    blocks: Sequence[nn.Module], tokens: Tensor, context: BlockContext, out: Tensor | None = None
) -> Tensor:
    """Tokens `[B, S, C]` through `blocks` in order; the last may write into `out` (a hint)."""
    for block in blocks[:-1]:
        tokens = block(tokens, context)
    return blocks[-1](tokens, context, out=out)


class DoubleStreamBlock(nn.Module):
    """MMDiT block: separate weights for image and text, joint attention (arXiv 2403.03206).

    Branches: `img_attn`, `txt_attn`, `img_mlp`, `txt_mlp`. With `merged` the qkv weights are one
    tensor (1.0), otherwise three (1.5).
    """

    def __init__(
        self, ops: Ops, attention: Attention, hidden: int, heads: int, merged: bool
    ) -> None:
        super().__init__()
        self.ops, self.attention = ops, attention
        self.heads, self.merged = heads, merged
        for stream in ("img", "txt"):
            self._add_stream(stream, hidden, hidden // heads)

    def _add_stream(self, stream: str, hidden: int, head_dim: int) -> None:
        self.add_module(f"{stream}_mod", Modulation(hidden, factor=6))
        if self.merged:
            self.add_module(f"{stream}_attn_qkv", QKVLinear(hidden))
        else:
            for name in "qkv":
                self.add_module(f"{stream}_attn_{name}", nn.Linear(hidden, hidden))
        self.add_module(f"{stream}_attn_q_norm", HeadNorm(head_dim))
        self.add_module(f"{stream}_attn_k_norm", HeadNorm(head_dim))
        self.add_module(f"{stream}_attn_proj", nn.Linear(hidden, hidden))
        self.add_module(f"{stream}_mlp", MLP(self.ops, hidden))

    def forward(
        self,
        tokens: Tensor,
        context: BlockContext,
        branches: Branches = compute_branch,
        out: Tensor | None = None,
    ) -> Tensor:
        img, txt = tokens.tensor_split([context.layout.img_len], dim=1)
        img_mod, txt_mod = self.img_mod(context.vec), self.txt_mod(context.vec)
        joint = once(lambda: self._attend(img, txt, img_mod, txt_mod, context))
        img_attn = branches("img_attn", lambda: self.img_attn_proj(joint()[0]))
        txt_attn = branches("txt_attn", lambda: self.txt_attn_proj(joint()[1]))
        img = self._finish(img, img_attn, img_mod, self.img_mlp, "img_mlp", branches)
        txt = self._finish(txt, txt_attn, txt_mod, self.txt_mlp, "txt_mlp", branches)
        return torch.cat([img, txt], dim=1)

    def _attend(
        self,
        img: Tensor,
        txt: Tensor,
        img_mod: tuple[Tensor, ...],
        txt_mod: tuple[Tensor, ...],
        context: BlockContext,
    ) -> tuple[Tensor, ...]:
        img_in = self.ops.layer_norm_modulate(img, *img_mod[:2])
        txt_in = self.ops.layer_norm_modulate(txt, *txt_mod[:2])
        rope = context.freqs_cos, context.freqs_sin
        no_rope = context.freqs_cos[:0], context.freqs_sin[:0]
        norm_rope = self.ops.rms_norm_rope
        attention = self.attention.begin(context.layout)
        attention.put_v(self._project("img", "v", img_in), self._project("txt", "v", txt_in))
        attention.put_k(
            norm_rope(self._project("img", "k", img_in), self.img_attn_k_norm.weight, *rope),
            norm_rope(self._project("txt", "k", txt_in), self.txt_attn_k_norm.weight, *no_rope),
        )
        attention.put_q(
            norm_rope(self._project("img", "q", img_in), self.img_attn_q_norm.weight, *rope),
            norm_rope(self._project("txt", "q", txt_in), self.txt_attn_q_norm.weight, *no_rope),
        )
        out, _ = attention.result(meanwhile=lambda: None)
        return out.tensor_split([img.shape[1]], dim=1)

    def _project(self, stream: str, which: str, x: Tensor) -> Tensor:
        if self.merged:
            projected = getattr(getattr(self, f"{stream}_attn_qkv"), which)(x)
        else:
            projected = getattr(self, f"{stream}_attn_{which}")(x)
        return projected.unflatten(-1, (self.heads, -1))  # B S H D

    def _finish(
        self,
        x: Tensor,
        attn: Tensor,
        mod: tuple[Tensor, ...],
        mlp: MLP,
        name: str,
        branches: Branches,
    ) -> Tensor:
        _, _, gate_attn, shift, scale, gate_mlp = mod
        x, modulated = self.ops.gate_residual_layer_norm_modulate(x, attn, gate_attn, shift, scale)
        return self.ops.gate_residual(x, branches(name, lambda: mlp(modulated)), gate_mlp)


class SingleStreamBlock(nn.Module):
    """Attention and MLP in parallel over joint tokens (arXiv 2302.05442).

    Branches: `attn` (before `linear2`) and `total` (after it).
    """

    def __init__(self, ops: Ops, attention: Attention, hidden: int, heads: int) -> None:
        super().__init__()
        self.ops, self.attention, self.heads = ops, attention, heads
        self.linear1 = QKVLinear(hidden, extra=4 * hidden)
        self.linear2 = nn.Linear(5 * hidden, hidden)
        self.q_norm = HeadNorm(hidden // heads)
        self.k_norm = HeadNorm(hidden // heads)
        self.modulation = Modulation(hidden, factor=3)

    def forward(
        self,
        tokens: Tensor,
        context: BlockContext,
        branches: Branches = compute_branch,
        out: Tensor | None = None,
    ) -> Tensor:
        shift, scale, gate = self.modulation(context.vec)
        total = branches("total", lambda: self._total(tokens, shift, scale, context, branches))
        return self.ops.gate_residual(tokens, total, gate, out=out)

    def _total(
        self,
        tokens: Tensor,
        shift: Tensor,
        scale: Tensor,
        context: BlockContext,
        branches: Branches,
    ) -> Tensor:
        x = self.ops.layer_norm_modulate(tokens, shift, scale)
        mlp_half = once(lambda: self.linear1.extra(x))
        attn = branches("attn", lambda: self._attend(x, context, mlp_half))
        return self.linear2(self.ops.attention_mlp(attn, mlp_half()))

    def _attend(self, x: Tensor, context: BlockContext, meanwhile: Callable[[], Tensor]) -> Tensor:
        heads = (self.heads, -1)
        rope = context.freqs_cos, context.freqs_sin
        norm_rope = self.ops.rms_norm_rope
        attention = self.attention.begin(context.layout)
        attention.put_v(self.linear1.v(x).unflatten(-1, heads))
        attention.put_k(
            norm_rope(self.linear1.k(x).unflatten(-1, heads), self.k_norm.weight, *rope)
        )
        attention.put_q(
            norm_rope(self.linear1.q(x).unflatten(-1, heads), self.q_norm.weight, *rope)
        )
        out, _ = attention.result(meanwhile)
        return out
