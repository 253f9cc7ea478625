"""How long the pieces of a block take on a GPU that has not timed them: work over stated rates.

Matrix products and attention by their FLOPs, everything else by the bytes it must move; attention
fills whole waves of the chip, so its last one costs as much as a full one. Knows plans and sizes of
models, no wires.
"""

import math
from typing import Literal, NamedTuple

from ..config import DiTConfig
from ..parallel._native import Plan
from .block_program import BlockWork, Pieces
from .timeline import Compute

BlockKind = Literal["double", "single"]

VALUE_BYTES = 2  # bf16
MERGE_BYTES = 26  # of each value that ring steps add up: (4 + 4), (2 + 4) and (4 + 4 + 4)
QUERY_TILE = 128  # rows of one head that a block of the attention kernel takes


class Rates(NamedTuple):
    """Of one GPU; the defaults are read on, and published for, an H200."""

    gemm_tflops: float = 760.0
    attention_tflops: float = 700.0
    copy_gbs: float = 4300.0
    sms: int = 132


class Waves(NamedTuple):
    """Of an attention grid over the chip: `count` of them, of which the last is `tail` full."""

    count: float

    @property
    def tail(self) -> float:
        return self.count - math.ceil(self.count) + 1

    @property
    def efficiency(self) -> float:
        return self.count / math.ceil(self.count)


def attention_waves(query_tokens: int, heads: int, sms: int) -> Waves:
    """Tiles of 128 query rows of each head, one on each SM at a time."""
    return Waves(heads * math.ceil(query_tokens / QUERY_TILE) / sms)


def block_work(kind: BlockKind, dit: DiTConfig, plan: Plan, rank: int, rates: Rates) -> BlockWork:
    """What `rank` computes in a block of `kind`, as `models/blocks.py` does it with fused ops."""
    ours = _Share(dit, plan.shard(rank).tokens, rates)
    travels = plan.ranks > 1
    return BlockWork(
        enter=(
            ours.reads("modulation", 12 if kind == "double" else 3),  # of two streams, of one
            ours.passes("gate, norm", 4),
        ),
        v=(ours.gemm("V", "QKV", 1, 1),),
        k=(ours.gemm("K", "QKV", 1, 1), ours.passes("norm, RoPE", 2)),
        q=(ours.gemm("Q", "QKV", 1, 1), ours.passes("norm, RoPE", 2)),
        pack_v=_chunked("pack", ours, plan, rank) if travels else (),
        # In one chunk they are packed by norm and RoPE.
        pack_kq=_chunked("pack", ours, plan, rank) if plan.chunks > 1 else (),
        under_q=ours.mlp_half() if kind == "single" else (),
        attend=_attend(dit, plan, rank, rates),
        under_o=ours.mlp_half() if kind == "single" else (),
        unpack=_chunked("unpack", ours, plan, rank) if travels else (),
        leave=ours.leave(kind),
    )


def fusion_seconds(dit: DiTConfig, tokens: int, rates: Rates) -> float:
    """The predictor's front end over `tokens`: two products into one, SiLU, one product."""
    ours = _Share(dit, tokens, rates)
    pieces = ours.gemm("", "", 2, 1), ours.passes("", 2), ours.gemm("", "", 1, 1)
    return sum(piece.seconds for piece in pieces)


class _Share:
    """Pieces of work over `tokens`; widths are in units of the model's hidden size."""

    def __init__(self, dit: DiTConfig, tokens: int, rates: Rates) -> None:
        self._hidden, self._tokens, self._rates = dit.hidden, tokens, rates

    def gemm(self, name: str, kind: str, fan_in: int, fan_out: int, part: float = 1.0) -> Compute:
        flops = 2 * self._tokens * part * fan_in * fan_out * self._hidden**2
        return Compute(name, kind, flops / (self._rates.gemm_tflops * 1e12))

    def passes(self, name: str, count: float, kind: str = "elementwise") -> Compute:
        """Reads and writes of all tokens."""
        moved = count * self._tokens * self._hidden * VALUE_BYTES
        return Compute(name, kind, moved / (self._rates.copy_gbs * 1e9))

    def reads(self, name: str, squares: int) -> Compute:
        """A product with one row, which takes as long as reading its weights."""
        moved = squares * self._hidden**2 * VALUE_BYTES
        return Compute(name, "elementwise", moved / (self._rates.copy_gbs * 1e9))

    def mlp_half(self) -> Pieces:
        """Half the rows of a single-stream block's MLP half of `linear1`, and their GELU."""
        return self.gemm("MLP half", "MLP", 1, 4, part=0.5), self.passes("GELU", 4)

    def leave(self, kind: BlockKind) -> Pieces:
        if kind == "single":
            return (self.gemm("linear2", "output", 5, 1),)
        return (
            self.gemm("proj", "output", 1, 1),
            self.passes("gate, norm", 4),
            self.gemm("MLP fc1", "MLP", 1, 4),
            self.passes("GELU", 8),
            self.gemm("MLP fc2", "MLP", 4, 1),
        )


def _chunked(name: str, ours: _Share, plan: Plan, rank: int) -> Pieces:
    """A copy of all heads, chunk by chunk of every member's."""
    members = plan.members(plan.group_of(rank))
    heads = [sum(len(plan.heads(r, chunk)) for r in members) for chunk in range(plan.chunks)]
    return tuple(ours.passes(name, 2 * part / plan.num_heads) for part in heads)


def _attend(dit: DiTConfig, plan: Plan, rank: int, rates: Rates) -> tuple[Pieces, ...]:
    group, groups = plan.group_of(rank), plan.ring_degree
    queries = plan.group_tokens(group)

    def piece(chunk: int, step: int) -> Compute:
        heads, keys = len(plan.heads(rank, chunk)), plan.group_tokens((group - step) % groups)
        flops = 4 * queries * keys * heads * dit.head_dim
        efficiency = attention_waves(queries, heads, rates.sms).efficiency
        seconds = flops / (rates.attention_tflops * 1e12 * efficiency)
        merged = queries * heads * dit.head_dim * MERGE_BYTES if step else 0
        place = "".join(f" {part}" for part, of in ((chunk, plan.chunks), (step, groups)) if of > 1)
        return Compute(f"attention{place}", "attention", seconds + merged / (rates.copy_gbs * 1e9))

    return tuple(
        tuple(piece(chunk, step) for step in range(groups)) for chunk in range(plan.chunks)
    )
