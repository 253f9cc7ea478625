"""Attention over tokens that are shared out: a rank has some tokens of all heads, and trades them.

The same staged interface as local attention. V, K and Q leave as they are put, each under the work
that makes the next; what is attended leaves in chunks of heads, each under the attention of the
next (Ulysses, arXiv 2309.14509). With more ranks than heads, or ranks on several nodes, groups of
ranks do that and keys and values go round the groups, under the attention to those at hand (ring
attention, arXiv 2310.01889). Knows partitions and process groups, no models.
"""

import weakref
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ..attention.local import LocalAttention, Work
from ..attention.partial import get_partial_backend, merge
from ..graphs.between import apart
from ..kernels.packing import Packing, packing
from ..tokens import TokenLayout
from ._native import Partition, Progress, Scheduler, Slot
from .differentiable import DifferentiableScheduler
from .ranks import named
from .sharded import Sharded


class Groups(NamedTuple):
    """The ranks that trade tokens for heads, and those of one number in all such groups."""

    ulysses: ProcessGroup
    ring: ProcessGroup | None


class PreparedExchange(NamedTuple):
    """What attention over tokens of one shape exchanges by; `packing` is that of members' heads."""

    scheduler: Scheduler
    packing: Packing


RECENT = 2  # shapes with buffers: two prompts of classifier-free guidance take turns


class UlyssesAttention:
    """Given to a model in place of `local`, whose backend it uses.

    `chunks`: pieces of a rank's heads. `ranks_per_node`: with several nodes, tokens are traded
    inside each and keys go round them; 0 where all ranks are in one. The partition may choose both.
    """

    def __init__(
        self,
        group: ProcessGroup,
        local: LocalAttention,
        timeout: timedelta,
        chunks: int = 1,
        ranks_per_node: int = 0,
        ulysses_degree: int = 0,
    ) -> None:
        self._progress = Progress()
        self.local, self.sharding = local, Sharded(group, self._progress)
        self._group, self._timeout, self._chunks = group, timeout, chunks
        self._ranks_per_node, self._ulysses_degree = ranks_per_node, ulysses_degree
        self._groups: dict[int, Groups] = {}
        self._recent: dict[tuple, PreparedExchange] = {}
        # Also at exit, where this is forgotten: later, its groups' threads find no interpreter.
        self._release = weakref.finalize(self, _release, self._recent, self._groups)

    @property
    def begun(self) -> int:
        """How many exchanges and collectives have begun."""
        return self._progress.begun

    def close(self) -> None:
        """Release buffers and the ring's groups, before `group` is destroyed; all ranks alike.

        Captured steps hold both, too: their runner's `clear` comes first.
        """
        for groups in self._groups.values():
            for each in groups:
                dist.destroy_process_group(each)
        self._release()

    def begin(self, layout: TokenLayout) -> "UlyssesHandle":
        return UlyssesHandle(self, layout)

    def partition(self, layout: TokenLayout, heads: int, row_bytes: int) -> Partition:
        """Who has what of tokens laid out so; ValueError where these ranks cannot share them.

        `row_bytes` are those of one token's head.
        """
        img_tokens, txt_tokens = layout.whole
        return Partition(
            img_tokens=img_tokens,
            txt_tokens=txt_tokens,
            heads=heads,
            ranks=self._group.size(),
            ranks_per_node=self._ranks_per_node,
            ulysses_degree=self._ulysses_degree,
            head_chunks=self._chunks,
            row_bytes=row_bytes,
        )

    def prepared(self, layout: TokenLayout, like: Tensor) -> PreparedExchange:
        """For tensors such as `like [B, S_shard, H, D]`; those of the last shapes are kept."""
        key = layout.whole, like.shape, like.dtype, like.device
        prepared = self._recent.pop(key, None)
        if prepared is None:
            while len(self._recent) >= RECENT:  # before new buffers come, the oldest ones go
                del self._recent[next(iter(self._recent))]
            scheduler = self.scheduler(layout, like, reuse_buffers=True)
            partition = scheduler.partition
            members = partition.members(partition.group_of(self._group.rank()))
            counts = [len(partition.heads(member)) for member in members]
            prepared = PreparedExchange(scheduler, packing(counts, like.device))
        self._recent[key] = prepared  # at the end: the last to go
        return prepared

    def scheduler(self, layout: TokenLayout, like: Tensor, reuse_buffers: bool) -> Scheduler:
        """A new one, for tensors such as `like [B, S_shard, H, D]`."""
        batch, _, heads, head_dim = like.shape
        partition = self.partition(layout, heads, head_dim * like.dtype.itemsize)
        ulysses, ring = self._split(partition)
        return Scheduler(
            partition=partition,
            rank=self._group.rank(),
            group=ulysses,
            ring=ring,
            batch=batch,
            head_dim=head_dim,
            dtype=like.dtype,
            device=like.device,
            timeout=self._timeout,
            reuse_buffers=reuse_buffers,
            progress=self._progress,
        )

    def origins(self, partition: Partition) -> list[int]:
        """Numbers of the groups whose keys come round to this rank, in order, its own first."""
        own = partition.group_of(self._group.rank())
        return [(own - turn) % partition.ring_degree for turn in range(partition.ring_degree)]

    def _split(self, partition: Partition) -> Groups:
        """Every rank comes here for the same partition at the same time."""
        degree = partition.ulysses_degree
        if partition.ring_degree == 1:
            return Groups(self._group, None)
        if degree not in self._groups:
            ranks = dist.get_process_group_ranks(self._group)
            group, number = divmod(self._group.rank(), degree)
            subsets = ranks[group * degree : (group + 1) * degree], ranks[number::degree]
            with named("groups of ranks"):
                made = [
                    dist.new_group(each, self._timeout, use_local_synchronization=True)
                    for each in subsets
                ]
            self._groups[degree] = Groups(*made)
        return self._groups[degree]


def _release(recent: dict[tuple, PreparedExchange], groups: dict[int, Groups]) -> None:
    recent.clear()
    groups.clear()


class UlyssesHandle:
    """One attention whose tokens are on their way."""

    def __init__(self, attention: UlyssesAttention, layout: TokenLayout) -> None:
        self._attention, self._layout = attention, layout
        self.packing: Packing | None = None

    def put_v(self, v: Tensor) -> None:
        self._scheduler = self._chosen_scheduler(v)
        self._origins = self._attention.origins(self._scheduler.partition)
        self._valid = [self._valid_of(origin, v.device) for origin in self._origins]
        apart(self._scheduler.send, Slot.V, v)

    def _chosen_scheduler(self, v: Tensor) -> Scheduler | DifferentiableScheduler:
        if torch.is_grad_enabled():  # one of its own: a recomputation may run amid the backward
            own = self._attention.scheduler(self._layout, v, reuse_buffers=False)
            return DifferentiableScheduler(own)
        prepared = self._attention.prepared(self._layout, v)
        if prepared.scheduler.partition.chunks == 1:
            self.packing = prepared.packing
        return prepared.scheduler

    def _valid_of(self, origin: int, device: torch.device) -> Tensor | None:
        """Which of a group's tokens are no padding, `[B, S_group]`; None where none is."""
        if self._layout.lengths is None:
            return None
        span = self._scheduler.partition.group_span(origin)
        return torch.arange(span.start, span.stop, device=device) < self._layout.lengths[:, None]

    def put_k(self, k: Tensor) -> None:
        self._send(Slot.K, k)

    def put_q(self, q: Tensor) -> None:
        self._send(Slot.Q, q)

    def _send(self, slot: Slot, tokens: Tensor) -> None:
        if self.packing is None:
            apart(self._scheduler.send, slot, tokens)
        else:
            apart(self._scheduler.send_packed, slot, tokens)

    def result(self, work: Work) -> Tensor:
        work.advance()  # under q
        attend = self._attend if len(self._origins) == 1 else self._attend_round
        for chunk in range(self._scheduler.partition.chunks):
            apart(self._scheduler.send_back, Slot.O, chunk, attend(chunk))
        work.advance()  # under what comes back
        return apart(self._scheduler.receive_back, Slot.O).flatten(2)

    def _attend(self, chunk: int) -> Tensor:
        q, k, v = apart(_received, self._scheduler, (Slot.Q, Slot.K, Slot.V), chunk)
        return self._attention.local.backend(q, k, v, self._valid[0])

    def _attend_round(self, chunk: int) -> Tensor:
        """To every group's keys. Those of the next come here while these are attended to."""
        rounds = self._round(chunk)
        if torch.is_grad_enabled():  # parts cannot be differentiated: all keys at once
            k, v = (torch.cat(each, dim=1) for each in zip(*rounds, strict=True))
            valid = None if self._valid[0] is None else torch.cat(self._valid, dim=1)
            (q,) = apart(_received, self._scheduler, (Slot.Q,), chunk)
            return self._attention.local.backend(q, k, v, valid)
        attend = get_partial_backend(self._attention.local.name)
        keys = next(rounds)
        (q,) = apart(_received, self._scheduler, (Slot.Q,), chunk)
        done = attend(q, *keys, self._valid[0])
        for keys, valid in zip(rounds, self._valid[1:], strict=True):
            done = merge(done, attend(q, *keys, valid))
        return done.out.to(q.dtype)

    def _round(self, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every group's keys and values in turn; each leaves for the next group when it is here."""
        slots = Slot.K, Slot.V
        here = apart(_received, self._scheduler, slots, chunk)
        for origin in self._origins[:-1]:
            for slot, heads in zip(slots, here, strict=True):
                apart(self._scheduler.pass_on, slot, chunk, origin, heads)
            yield here
            here = apart(_passed, self._scheduler, slots, chunk)
        yield here


def _received(
    scheduler: Scheduler | DifferentiableScheduler, slots: Sequence[Slot], chunk: int
) -> tuple[Tensor, ...]:
    return tuple(scheduler.receive(slot, chunk) for slot in slots)


def _passed(
    scheduler: Scheduler | DifferentiableScheduler, slots: Sequence[Slot], chunk: int
) -> tuple[Tensor, ...]:
    return tuple(scheduler.receive_passed(slot, chunk) for slot in slots)
