"""Tokens shared out over the ranks of a process group, and image patches gathered from them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup

from ..graphs.between import between_graphs
from ..tokens import RowVectors, StepContext, TokenLayout
from ._native import Partition
from .topology import Topology

# PyTorch 2.13's names; 2.11 has those that 2.13 warns of.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Sharded:
    """A `Sharding` over the ranks of `topology`; goes with an attention over the same."""

    def __init__(self, topology: Topology) -> None:
        self._topology, self.size = topology, topology.size

    def share(self, img_tokens: int, txt_tokens: int) -> tuple[int, int]:
        shard = self._topology.shard(img_tokens, txt_tokens)
        return len(shard.img), len(shard.txt)

    def heads(self, heads: int, img_tokens: int, txt_tokens: int) -> int:
        partition = self._topology.partition(img_tokens, txt_tokens, heads)
        check_heads_are_whole(partition)
        return len(partition.heads(self._topology.rank))

    def from_first_rank(self, latents: Tensor) -> Tensor:
        latents = latents.clone()
        with self._topology.collective("initial latents"):
            dist.broadcast(latents, group_src=0, group=self._topology.world)
        return latents

    def total(self, sums: Tensor) -> Tensor:
        sums = sums.clone()
        with self._topology.collective("measured sums"):
            dist.all_reduce(sums, group=self._topology.world)
        return sums

    def take(self, tokens: Tensor, context: StepContext) -> tuple[Tensor, StepContext]:
        img_len = context.layout.img_len
        whole = img_len, tokens.shape[1] - img_len
        shard = self._topology.shard(*whole)
        img = slice(shard.img.start, shard.img.stop)
        joint = slice(shard.img.start + shard.txt.start, shard.img.stop + shard.txt.stop)
        layout = context.layout._replace(img_len=len(shard.img), whole=whole, start=joint.start)
        vec = context.vec
        return tokens[:, joint], context._replace(
            vec=vec.of_share(shard.img) if isinstance(vec, RowVectors) else vec,
            freqs_cos=context.freqs_cos[img],
            freqs_sin=context.freqs_sin[img],
            layout=layout,
        )

    def gather(self, rows: Tensor, layout: TokenLayout) -> Tensor:
        shards = (self._topology.shard(*layout.whole, rank) for rank in range(self.size))
        return between_graphs(self._gathered, rows, [len(shard.img) for shard in shards])

    def _gathered(self, rows: Tensor, counts: list[int]) -> Tensor:
        with self._topology.collective("patches of all ranks"):
            return _Gather.apply(rows, counts, self._topology.world)


def check_heads_are_whole(partition: Partition) -> None:
    """Raises ValueError unless each rank attends with its heads at once, to all keys."""
    if partition.ring_degree > 1 or partition.chunks > 1:
        raise ValueError(
            "a policy that stands in at attention needs all keys of a rank's heads at once: no "
            f"ring of ranks and --head-chunks 1, got a ring of {partition.ring_degree} and "
            f"{partition.chunks} chunks"
        )


class _Gather(Function):
    """Rows `[B, S, P]` of every rank, `counts` of them, one rank after another.

    Every rank goes on with all of them, so the gradient of a rank's rows is the sum of what all
    ranks have for these.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: ProcessGroup) -> Tensor:
        ctx.at = counts, group
        padded = rows.new_zeros(len(rows), max(counts), rows.shape[2])
        padded[:, : rows.shape[1]] = rows
        gathered = padded.new_empty(len(counts) * len(padded), *padded.shape[1:])
        all_gather(gathered, padded, group=group)
        of_ranks = zip(gathered.chunk(len(counts)), counts, strict=True)
        return torch.cat([each[:, :count] for each, count in of_ranks], dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        counts, group = ctx.at
        padded = grad.new_zeros(len(counts), len(grad), max(counts), grad.shape[2])
        for of_rank, rows in zip(padded, grad.split(counts, dim=1), strict=True):
            of_rank[:, : rows.shape[1]] = rows
        summed = torch.empty_like(padded[0])
        reduce_scatter(summed, padded.flatten(0, 1), group=group)
        return summed[:, : counts[group.rank()]], None, None
