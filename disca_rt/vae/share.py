"""Tiles dealt out over ranks: who decodes which, and how they come to the first rank.

Tile k of a slab is of rank k modulo the number of ranks, in rounds of one tile each. Ranks agree on
how a round went before its tiles travel, so that none waits for a tile that will not come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

FINE, CANCELLED, FAILED = 0, 1, 2


class AnotherRankFailed(dist.DistError):
    """Another rank could not go on; like any failed collective it says nothing of the cause."""


class TileShare(Protocol):
    """One rank's view of those that decode together; with `everywhere` all get the video."""

    rank: int
    size: int
    everywhere: bool

    def agree(self, state: int) -> int:
        """The worst state of all ranks: FINE, CANCELLED or FAILED."""

    def collect(self, mine: Tensor | None, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Collect a round's tiles on the first rank, in rank order; others get an empty list.

        `shapes` has one entry per tile of the round; ranks beyond it pass None as `mine`.
        """

    def spread(self, chunk: Tensor | None, shape: Sequence[int]) -> Tensor:
        """The first rank's chunk, on every rank; fp32."""


@dataclass(frozen=True)
class Alone:
    """One rank without others."""

    rank: int = 0
    size: int = 1
    everywhere: bool = False

    def agree(self, state: int) -> int:
        return state

    def collect(self, mine: Tensor | None, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        return [mine]

    def spread(self, chunk: Tensor | None, shape: Sequence[int]) -> Tensor:
        return chunk


@dataclass(frozen=True)
class GroupShare:
    """Ranks of `group`, or of the default one; tiles travel on `device`, a GPU's under NCCL."""

    group: dist.ProcessGroup | None = None
    device: torch.device | str = "cpu"
    everywhere: bool = False

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        return dist.get_world_size(self.group)

    def agree(self, state: int) -> int:
        worst = torch.tensor(state, device=self.device)
        dist.all_reduce(worst, dist.ReduceOp.MAX, group=self.group)
        return int(worst)

    def collect(self, mine: Tensor | None, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        if mine is None:
            return []
        if self.rank:
            travelling = mine.to(self.device).contiguous()
            dist.send(travelling, group=self.group, group_dst=0)
            return []
        tiles = [mine]
        for rank, shape in enumerate(shapes[1:], start=1):
            arrived = torch.empty(*shape, dtype=mine.dtype, device=self.device)
            dist.recv(arrived, group=self.group, group_src=rank)
            tiles.append(arrived.to(mine.device))
        return tiles

    def spread(self, chunk: Tensor | None, shape: Sequence[int]) -> Tensor:
        if chunk is None:
            travelling = torch.empty(*shape, dtype=torch.float32, device=self.device)
        else:
            travelling = chunk.to(self.device).contiguous()
        dist.broadcast(travelling, group=self.group, group_src=0)
        return travelling if chunk is None else chunk
