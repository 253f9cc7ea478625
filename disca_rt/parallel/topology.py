"""The owner of the ranks that share a sample and of the groups in which they exchange.

Groups are made before the first forward, by all ranks alike, once the number of heads is known.
Knows process groups and partitions, no tensors of a model.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist
from torch.distributed import ProcessGroup

from ._native import Partition, Progress, Shard, token_shard
from .failures import named
from .nccl import nccl_options


class Groups(NamedTuple):
    """Two groups of a rank: `ulysses` trades tokens for heads, `ring` passes keys round."""

    ulysses: ProcessGroup
    ring: ProcessGroup | None


class Topology:
    """The ranks of `world`, which share each sample.

    `ranks_per_node`: with several nodes, tokens are traded inside each and keys go round them; 0
    where all ranks are in one. `ulysses_degree` ranks trade tokens for heads; 0 leaves that to the
    number of heads. An exchange fails after `timeout`. NCCL's kernels have at most `max_ctas`
    thread blocks in groups that are made here.
    """

    def __init__(
        self,
        world: ProcessGroup,
        timeout: timedelta,
        ranks_per_node: int = 0,
        ulysses_degree: int = 0,
        max_ctas: int | None = None,
    ) -> None:
        self.world, self.rank, self.size = world, world.rank(), world.size()
        self.timeout, self._options = timeout, nccl_options(max_ctas, timeout)
        self.ranks_per_node, self.ulysses_degree = ranks_per_node, ulysses_degree
        self.progress = Progress()
        self._groups: dict[int, Groups] = {}
        # Also at exit, where this is forgotten: later, its groups' threads find no interpreter.
        self._release = weakref.finalize(self, self._groups.clear)

    @classmethod
    def of_subgroups(cls, size: int, timeout: timedelta, ranks_per_node: int) -> "Topology":
        """Topology of groups of `size` consecutive ranks; all ranks of the job call it."""
        world, _ = dist.new_subgroups(size, timeout=timeout)
        return cls(world, timeout, ranks_per_node)

    def prepare(self, heads: int) -> None:
        """Makes the groups of models with `heads` heads; ValueError where none can be made."""
        partition = self.partition(self.size, 0, heads)
        degree = partition.ulysses_degree
        if partition.ring_degree == 1 or degree in self._groups:
            return
        ranks = dist.get_process_group_ranks(self.world)
        group, number = divmod(self.rank, degree)
        subsets = ranks[group * degree : (group + 1) * degree], ranks[number::degree]
        with named("groups of ranks"):
            made = [
                dist.new_group(
                    each,
                    self.timeout,
                    pg_options=self._options,
                    use_local_synchronization=True,
                )
                for each in subsets
            ]
        self._groups[degree] = Groups(*made)

    @property
    def has_ring(self) -> bool:
        """True where keys go round several groups, once these are made."""
        return bool(self._groups)

    def groups(self, partition: Partition) -> Groups:
        """The groups in which the ranks of `partition` exchange."""
        if partition.ring_degree == 1:
            return Groups(self.world, None)
        return self._groups[partition.ulysses_degree]

    def partition(
        self,
        img_tokens: int,
        txt_tokens: int,
        heads: int,
        head_chunks: int = 1,
        row_bytes: int = 256,
    ) -> Partition:
        """Partition of tokens and heads over the ranks; ValueError where they cannot be shared.

        `row_bytes` is the size of one head of one token.
        """
        return Partition(
            img_tokens=img_tokens,
            txt_tokens=txt_tokens,
            heads=heads,
            ranks=self.size,
            ranks_per_node=self.ranks_per_node,
            ulysses_degree=self.ulysses_degree,
            head_chunks=head_chunks,
            row_bytes=row_bytes,
        )

    def shard(self, img_tokens: int, txt_tokens: int, rank: int | None = None) -> Shard:
        """The tokens of `rank`, by default this one."""
        return token_shard(img_tokens, txt_tokens, self.size, self.rank if rank is None else rank)

    @contextmanager
    def collective(self, what: str) -> Iterator[None]:
        """Counts a collective of all ranks, and names it where it fails."""
        self.progress.begin()
        with named(what):
            yield

    def close(self) -> None:
        """Destroys the groups made here, before `world` is; all ranks alike."""
        for groups in self._groups.values():
            for each in groups:
                dist.destroy_process_group(each)
        self._release()
