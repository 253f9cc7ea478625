"""The two kinds of DiT block, used by both models and by both predictors.

A block takes the residual stream of joint tokens, image first, and returns it: every kind has the
same signature, so all blocks, a range of them or none can run. `branches` may put something in the
place of one branch of a block. Blocks know no cache, no graph and no rank.
"""

from collections.abc import Callable, Sequence, Set
from functools import partial

from torch import Tensor, nn

from ..attention.protocol import Attention, NoOverlap, Overlap
from ..kernels.operand import Input
from ..kernels.ops import Ops
from ..tokens import StepContext, Vector
from .block_parts import MLPHalf, put_k_and_q
from .branches import PARTS, Branches, Compute, once
from .layers import MLP, HeadNorm, Modulation
from .linear import Linear, qkv_linear
from .row_groups import layer_norm_modulate
from .stream import (
    Entered,
    PendingSum,
    Stream,
    add_norm,
    add_norm_joint,
    materialise,
    split_stream,
)

Mods = tuple[Vector, ...]
"""Shifts, scales and gates of a block."""


def run_blocks(
    blocks: Sequence[nn.Module],
    tokens: Tensor,
    context: StepContext,
    out: Tensor | None = None,
    branches: Sequence[Branches | None] | None = None,
) -> Tensor:
    """Tokens `[B, S, C]` through `blocks` in order, each with its `branches` where it has any.

    `out`: preferred destination of the result, may be ignored.
    """
    stream: Stream = (PendingSum(tokens),)
    if branches is None:
        for block in blocks:
            stream = block(stream, context)
    else:
        for block, of_block in zip(blocks, branches, strict=True):
            stream = block(stream, context, of_block)
    return materialise(stream, blocks[-1].ops, out) if blocks else tokens


class DoubleStreamBlock(nn.Module):
    """MMDiT block: separate weights for image and text, joint attention (arXiv 2403.03206).

    Branches: `img_attn`, `txt_attn`, `img_mlp`, `txt_mlp`. With `merged` the qkv weights are one
    tensor (1.0), otherwise three (1.5). `in_fp8` are the names of its linears that take FP8.
    """

    in_fp8: Set[str] = frozenset()

    def __init__(
        self,
        ops: Ops,
        attention: Attention,
        hidden: int,
        heads: int,
        merged: bool,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__()
        self.ops, self.attention = ops, attention
        self.heads, self.merged = heads, merged
        first = "attn_qkv" if merged else "attn_q"  # of the linears that the norms go into
        self._img_in, self._txt_in = f"img_{first}", f"txt_{first}"
        head_dim = hidden // heads
        self.img_mod = Modulation(hidden, factor=6)
        if merged:
            self.img_attn_qkv = qkv_linear(hidden)
        else:
            self.img_attn_q = Linear(hidden, hidden)
            self.img_attn_k = Linear(hidden, hidden)
            self.img_attn_v = Linear(hidden, hidden)
        self.img_attn_q_norm = HeadNorm(head_dim)
        self.img_attn_k_norm = HeadNorm(head_dim)
        self.img_attn_proj = Linear(hidden, hidden)
        self.img_mlp = MLP(ops, hidden, mlp_ratio)
        self.txt_mod = Modulation(hidden, factor=6)
        if merged:
            self.txt_attn_qkv = qkv_linear(hidden)
        else:
            self.txt_attn_q = Linear(hidden, hidden)
            self.txt_attn_k = Linear(hidden, hidden)
            self.txt_attn_v = Linear(hidden, hidden)
        self.txt_attn_q_norm = HeadNorm(head_dim)
        self.txt_attn_k_norm = HeadNorm(head_dim)
        self.txt_attn_proj = Linear(hidden, hidden)
        self.txt_mlp = MLP(ops, hidden, mlp_ratio)

    def forward(
        self, stream: Stream, context: StepContext, branches: Branches | None = None
    ) -> Stream:
        mods = self.img_mod.of_step(context), self.txt_mod.of_step(context, of_text=True)
        parts = split_stream(stream, context.layout.img_len, self.ops)
        if branches is None:
            return self._whole(parts, mods, context)
        return self._in_branches(parts, mods, context, branches)

    def _whole(self, parts: Stream, mods: tuple[Mods, Mods], context: StepContext) -> Stream:
        img_mod, txt_mod = mods
        img, img_in = add_norm(parts[0], *img_mod[:2], self.ops, self._img_in in self.in_fp8)
        txt, txt_in = add_norm(parts[1], *txt_mod[:2], self.ops, self._txt_in in self.in_fp8)
        img_attn, txt_attn = self._attend(img_in, txt_in, context, self.attention)
        img, img_normed = self._add_attn(img, self.img_attn_proj(img_attn), img_mod, "img_mlp.fc1")
        txt, txt_normed = self._add_attn(txt, self.txt_attn_proj(txt_attn), txt_mod, "txt_mlp.fc1")
        img_part = PendingSum(img, self.img_mlp(img_normed), img_mod[-1])
        return img_part, PendingSum(txt, self.txt_mlp(txt_normed), txt_mod[-1])

    def _in_branches(
        self, parts: Stream, mods: tuple[Mods, Mods], context: StepContext, branches: Branches
    ) -> Stream:
        """Run the branches one by one; of a replaced one nothing is computed, its norm neither."""
        img_mod, txt_mod = mods
        img = self._entered(parts[0], img_mod[:2], self._img_in)
        txt = self._entered(parts[1], txt_mod[:2], self._txt_in)
        attention = branches.around(self.attention)
        joint = once(lambda: self._attend(img.normed(), txt.normed(), context, attention))
        img_proj, txt_proj = self.img_attn_proj, self.txt_attn_proj
        img_attn = branches("img_attn", lambda out=None: img_proj.into(joint()[0], out), img_mod[2])
        txt_attn = branches("txt_attn", lambda out=None: txt_proj.into(joint()[1], out), txt_mod[2])
        img_2 = self._entered(img.plus(img_attn), img_mod[3:5], "img_mlp.fc1")
        txt_2 = self._entered(txt.plus(txt_attn), txt_mod[3:5], "txt_mlp.fc1")
        img_mlp = branches("img_mlp", self._mlp(self.img_mlp, img_2, img_mod[3:5]), img_mod[-1])
        txt_mlp = branches("txt_mlp", self._mlp(self.txt_mlp, txt_2, txt_mod[3:5]), txt_mod[-1])
        return img_2.plus(img_mlp), txt_2.plus(txt_mlp)

    def _mlp(self, mlp: MLP, entered: Entered, shift_scale: Mods) -> Compute:
        """The MLP of all rows, or of some."""

        def compute(out: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
            if rows is None:
                return mlp(entered.normed(), out)
            more = {"rows": rows, "quantize": mlp.fc1.takes_fp8}
            return mlp(layer_norm_modulate(self.ops, entered.sum(), *shift_scale, **more))

        return compute

    def _entered(self, part: PendingSum, shift_scale: Mods, linear: str) -> Entered:
        """A part whose norm goes into `linear`."""
        entered = partial(add_norm, part, *shift_scale, self.ops, linear in self.in_fp8)
        return Entered((part,), entered, self.ops)

    def norms(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The weights of q's norms, and of k's."""
        q_norms = self.img_attn_q_norm.weight, self.txt_attn_q_norm.weight
        return q_norms, (self.img_attn_k_norm.weight, self.txt_attn_k_norm.weight)

    def _attend(
        self, img_in: Input, txt_in: Input, context: StepContext, given: Attention
    ) -> tuple[Tensor, ...]:
        norms = {
            "k": (self.img_attn_k_norm.weight, self.txt_attn_k_norm.weight),
            "q": (self.img_attn_q_norm.weight, self.txt_attn_q_norm.weight),
        }
        attention = given.begin(context.layout)
        attention.put_v(self._project("v", img_in, txt_in))
        project = partial(self._project, img_in=img_in, txt_in=txt_in)
        put_k_and_q(attention, project, norms, context, self.ops)
        out = attention.result(NoOverlap())
        return out.tensor_split([img_in.shape[1]], dim=1)

    def _project(self, which: str, img_in: Input, txt_in: Input) -> Tensor:
        if self.merged:
            linears = self.img_attn_qkv.rows[which], self.txt_attn_qkv.rows[which]
        else:
            linears = getattr(self, f"img_attn_{which}"), getattr(self, f"txt_attn_{which}")
        return self.ops.joint_linear(img_in, txt_in, *linears).unflatten(-1, (self.heads, -1))

    def _add_attn(self, x: Tensor, attn: Tensor, mod: Mods, linear: str) -> tuple[Tensor, Input]:
        _, _, gate, shift, scale, _ = mod
        return add_norm(PendingSum(x, attn, gate), shift, scale, self.ops, linear in self.in_fp8)


class SingleStreamBlock(nn.Module):
    """Attention and MLP in parallel over joint tokens (arXiv 2302.05442).

    Branches: `attn` and `mlp` (before `linear2`), `total` (after it), and `attn_part` and
    `mlp_part`, what each half adds to `total`. `in_fp8` are the names of its linears that take FP8.
    """

    in_fp8: Set[str] = frozenset()

    def __init__(
        self, ops: Ops, attention: Attention, hidden: int, heads: int, mlp_ratio: int = 4
    ) -> None:
        super().__init__()
        self.ops, self.attention, self.heads = ops, attention, heads
        self.linear1 = qkv_linear(hidden, extra=mlp_ratio * hidden)
        self.linear2 = Linear((1 + mlp_ratio) * hidden, hidden)
        self.q_norm = HeadNorm(hidden // heads)
        self.k_norm = HeadNorm(hidden // heads)
        self.modulation = Modulation(hidden, factor=3)

    def forward(
        self, stream: Stream, context: StepContext, branches: Branches | None = None
    ) -> Stream:
        shift, scale, gate = self.modulation.of_step(context)
        quantize = "linear1" in self.in_fp8
        entered = partial(add_norm_joint, stream, shift, scale, self.ops, quantize)
        if branches is None:
            x, normed = entered()
            gelu = "linear2" in self.in_fp8  # with which GELU is taken
            mlp = MLPHalf(self.linear1.rows["extra"] if gelu else self._mlp, normed)
            attn = self._attend(normed, context, mlp, self.attention)
            return (PendingSum(x, self._join_halves(attn, mlp.finish(), gelu=gelu), gate),)
        joint = Entered(stream, entered, self.ops)

        def norm(rows: Tensor | None = None) -> Input:
            if rows is None:
                return joint.normed()
            return layer_norm_modulate(self.ops, joint.sum(), shift, scale, rows, quantize)

        total = branches(
            "total", lambda out=None: self._in_branches(norm, context, branches, out), gate
        )
        return (joint.plus(total),)

    def _in_branches(
        self,
        norm: Callable[..., Input],
        context: StepContext,
        branches: Branches,
        out: Tensor | None,
    ) -> Tensor:
        """The `total` branch; `norm` gives all rows normalised, or those with given numbers."""
        given = branches.around(self.attention)

        def mlp() -> Tensor:
            return branches("mlp", lambda rows=None: self._mlp(norm(rows))).value

        def attn(work: Overlap) -> Tensor:
            return branches("attn", lambda: self._attend(norm(), context, work, given)).value

        if not branches.names.isdisjoint(PARTS):
            return self._in_parts(lambda: attn(NoOverlap()), mlp, branches)
        if "mlp" in branches.names:  # it may be replaced, so it cannot hide an exchange
            half = mlp()
            return self._join_halves(attn(NoOverlap()), [half], out)
        pieces = MLPHalf(self._mlp, norm())
        return self._join_halves(attn(pieces), pieces.finish(), out)

    def _in_parts(
        self, attn: Callable[[], Tensor], mlp: Callable[[], Tensor], branches: Branches
    ) -> Tensor:
        """`linear2` as the sum of what each half adds to it, either of which may be replaced."""
        width, share = self.linear2.out_features, self.linear2.share
        of_attn, of_mlp = slice(width), slice(width, None)
        mlp_part = branches("mlp_part", lambda out=None: share(mlp(), of_mlp, True, out)).value
        attn_part = branches("attn_part", lambda out=None: share(attn(), of_attn, False, out)).value
        return attn_part + mlp_part

    def _mlp(self, x: Input) -> Tensor:
        return self.ops.linear_gelu(x, self.linear1.rows["extra"])

    def _join_halves(
        self,
        attn: Tensor,
        mlp: Sequence[Tensor],
        out: Tensor | None = None,
        gelu: bool = False,
    ) -> Tensor:
        """`linear2` of [attention, MLP]; the latter comes in one or two pieces of rows.

        `gelu`: it has yet to go through its GELU.
        """
        return self.ops.pair_linear(attn, mlp, self.linear2, out, gelu=gelu)

    def norms(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The weights of q's norm, and of k's."""
        return (self.q_norm.weight,), (self.k_norm.weight,)

    def _attend(self, x: Input, context: StepContext, work: Overlap, given: Attention) -> Tensor:
        def project(which: str) -> Tensor:
            return self.linear1.rows[which](x).unflatten(-1, (self.heads, -1))

        norms = {"k": (self.k_norm.weight,) * 2, "q": (self.q_norm.weight,) * 2}
        attention = given.begin(context.layout)
        attention.put_v(self.linear1.rows["v"](x).unflatten(-1, (self.heads, -1)))
        put_k_and_q(attention, project, norms, context, self.ops)
        return attention.result(work)
