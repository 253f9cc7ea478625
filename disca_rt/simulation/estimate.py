"""Estimated seconds of a block's compute on a GPU that has not timed it: work over stated rates.

Matrix products and attention by their FLOPs, everything else by the bytes it must move; attention
fills whole waves of the chip, so its last one costs as much as a full one. Knows partitions and
sizes of models, no wires.
"""

import math
from typing import Literal, NamedTuple

from ..config import DiTConfig
from ..parallel._native import Partition
from .block_program import BlockWork, Computes
from .timeline import Compute

BlockKind = Literal["double", "single"]

VALUE_BYTES = 2  # bf16
MERGE_BYTES = 26  # of each value that ring steps add up: (4 + 4), (2 + 4) and (4 + 4 + 4)
QUERY_TILE = 128  # rows of one head that a block of the attention kernel takes


class Rates(NamedTuple):
    """Speeds of one GPU; the defaults are measured on an H200, or published for it."""

    gemm_tflops: float = 760.0
    attention_tflops: float = 700.0
    copy_gbs: float = 4300.0
    sms: int = 132


class Waves(NamedTuple):
    """Rounds in which an attention kernel's tiles fill the chip; `count` is a fraction."""

    count: float

    @property
    def tail(self) -> float:
        """Share of the chip that the last wave fills, above 0 to 1."""
        return self.count - math.ceil(self.count) + 1

    @property
    def efficiency(self) -> float:
        """Share of the chip that all waves fill on average."""
        return self.count / math.ceil(self.count)


def attention_waves(query_tokens: int, heads: int, sms: int) -> Waves:
    """Waves of a kernel that gives each SM one tile, 128 query rows of one head, at a time."""
    return Waves(heads * math.ceil(query_tokens / QUERY_TILE) / sms)


def block_work(
    kind: BlockKind, dit: DiTConfig, partition: Partition, rank: int, rates: Rates
) -> BlockWork:
    """Compute of `rank` in a block of `kind`, as `models/blocks.py` does it with fused ops."""
    ours = _Share(dit, partition.shard(rank).tokens, rates)
    travels = partition.ranks > 1
    return BlockWork(
        enter=(
            ours.reads("modulation", 12 if kind == "double" else 3),  # of two streams, of one
            ours.passes("gate, norm", 4),
        ),
        v=(ours.gemm("V", "QKV", 1, 1),),
        k=(ours.gemm("K", "QKV", 1, 1), ours.passes("norm, RoPE", 2)),
        q=(ours.gemm("Q", "QKV", 1, 1), ours.passes("norm, RoPE", 2)),
        pack_v=_chunked("pack", ours, partition, rank) if travels else (),
        # In one chunk they are packed by norm and RoPE.
        pack_kq=_chunked("pack", ours, partition, rank) if partition.chunks > 1 else (),
        under_q=ours.mlp_half() if kind == "single" else (),
        attend=_attend(dit, partition, rank, rates),
        under_o=ours.mlp_half() if kind == "single" else (),
        unpack=_chunked("unpack", ours, partition, rank) if travels else (),
        leave=ours.leave(kind),
    )


def fusion_seconds(dit: DiTConfig, tokens: int, rates: Rates) -> float:
    """Seconds of the predictor's front end over `tokens`: three matrix products and a SiLU."""
    ours = _Share(dit, tokens, rates)
    computes = ours.gemm("", "", 2, 1), ours.passes("", 2), ours.gemm("", "", 1, 1)
    return sum(each.seconds for each in computes)


class _Share:
    """Maker of computes over `tokens` tokens; widths are in units of the model's hidden size."""

    def __init__(self, dit: DiTConfig, tokens: int, rates: Rates) -> None:
        self._hidden, self._tokens, self._rates = dit.hidden, tokens, rates

    def gemm(self, name: str, kind: str, fan_in: int, fan_out: int, part: float = 1.0) -> Compute:
        flops = 2 * self._tokens * part * fan_in * fan_out * self._hidden**2
        return Compute(name, kind, flops / (self._rates.gemm_tflops * 1e12))

    def passes(self, name: str, count: float) -> Compute:
        """Compute that reads or writes all tokens `count` times."""
        moved = count * self._tokens * self._hidden * VALUE_BYTES
        return Compute(name, "elementwise", moved / (self._rates.copy_gbs * 1e9))

    def reads(self, name: str, squares: int) -> Compute:
        """Product with one row: as long as reading its weights, `squares` times hidden²."""
        moved = squares * self._hidden**2 * VALUE_BYTES
        return Compute(name, "elementwise", moved / (self._rates.copy_gbs * 1e9))

    def mlp_half(self) -> Computes:
        """MLP half of a single-stream block's `linear1` over half of the tokens, and their GELU."""
        return self.gemm("MLP half", "MLP", 1, 4, part=0.5), self.passes("GELU", 4)

    def leave(self, kind: BlockKind) -> Computes:
        if kind == "single":
            return (self.gemm("linear2", "output", 5, 1),)
        return (
            self.gemm("proj", "output", 1, 1),
            self.passes("gate, norm", 4),
            self.gemm("MLP fc1", "MLP", 1, 4),
            self.passes("GELU", 8),
            self.gemm("MLP fc2", "MLP", 4, 1),
        )


def _chunked(name: str, ours: _Share, partition: Partition, rank: int) -> Computes:
    """Copies of all heads to or from the layout that is sent, one for each chunk of heads."""
    members = partition.members(partition.group_of(rank))
    chunks = range(partition.chunks)
    heads = [sum(len(partition.heads(r, chunk)) for r in members) for chunk in chunks]
    return tuple(ours.passes(name, 2 * part / partition.num_heads) for part in heads)


def _attend(dit: DiTConfig, partition: Partition, rank: int, rates: Rates) -> tuple[Computes, ...]:
    group, groups = partition.group_of(rank), partition.ring_degree
    queries = partition.group_tokens(group)

    def compute(chunk: int, step: int) -> Compute:
        heads = len(partition.heads(rank, chunk))
        keys = partition.group_tokens((group - step) % groups)
        flops = 4 * queries * keys * heads * dit.head_dim
        efficiency = attention_waves(queries, heads, rates.sms).efficiency
        seconds = flops / (rates.attention_tflops * 1e12 * efficiency)
        merged = queries * heads * dit.head_dim * MERGE_BYTES if step else 0
        place = f" {chunk}" * (partition.chunks > 1) + f" {step}" * (groups > 1)
        return Compute(f"attention{place}", "attention", seconds + merged / (rates.copy_gbs * 1e9))

    return tuple(
        tuple(compute(chunk, step) for step in range(groups)) for chunk in range(partition.chunks)
    )
