"""Attention with each token on one of several ranks: they trade tokens for heads and back.

The same staged interface as local attention. V, K and Q leave as they are put, each under the work
that makes the next; what is attended leaves in chunks of heads, each under the attention of the
next (Ulysses, arXiv 2309.14509). With more ranks than heads, or ranks on several nodes, groups of
ranks do that and keys and values go round the groups, under the attention to those at hand (ring
attention, arXiv 2310.01889). Knows partitions and process groups, no models.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attention.local import LocalAttention
from ..attention.padding import Padding, attend, attend_with_lse, inputs_of, padding_of
from ..attention.partial import merge
from ..attention.protocol import Instead, Overlap
from ..graphs.between import between_graphs
from ..kernels.packing import Packing, packing
from ..tokens import TokenLayout
from ._native import Partition, Scheduler, Slot
from .differentiable import DifferentiableScheduler
from .sharded import Sharded, check_heads_are_whole
from .topology import Topology


class PreparedExchange(NamedTuple):
    """Buffers and order of the exchanges for one shape; `packing` lays out the members' heads."""

    scheduler: Scheduler
    packing: Packing


RECENT = 2  # shapes with buffers: two prompts of classifier-free guidance take turns


class UlyssesAttention:
    """Attention for models whose tokens the ranks of `topology` share, by `local`'s backend.

    `chunks`: pieces of a rank's heads, exchanged one after another.
    """

    def __init__(self, topology: Topology, local: LocalAttention, chunks: int = 1) -> None:
        self.topology, self.local, self.sharding = topology, local, Sharded(topology)
        self._chunks = chunks
        self._recent: dict[tuple, PreparedExchange] = {}
        # Also at exit, where this is forgotten: later, its groups' threads find no interpreter.
        self._release = weakref.finalize(self, self._recent.clear)

    @property
    def begun(self) -> int:
        """Number of exchanges and collectives that have begun."""
        return self.topology.progress.begun

    def prepare(self, heads: int) -> None:
        """Makes the groups of models with `heads` heads; all ranks alike."""
        self.topology.prepare(heads)

    def close(self) -> None:
        """Release buffers and groups, before the topology's world is destroyed; all ranks alike.

        Captured steps hold both, too: their runner's `clear` comes first.
        """
        self._release()
        self.topology.close()

    def takes_lengths(self, width: int, dtype: torch.dtype, device: torch.device) -> bool:
        """Tell whether all keys are here at once, and `local` takes lengths."""
        return not self.topology.has_ring and self.local.takes_lengths(width, dtype, device)

    def begin(self, layout: TokenLayout, instead: Instead | None = None) -> "UlyssesHandle":
        return UlyssesHandle(self, layout, instead or self.local.backend.instead)

    def partition(self, layout: TokenLayout, heads: int, row_bytes: int) -> Partition:
        """Partition of tokens with this `layout`; see `Topology.partition`."""
        return self.topology.partition(*layout.whole, heads, self._chunks, row_bytes)

    def prepared(self, layout: TokenLayout, like: Tensor) -> PreparedExchange:
        """Exchange for tensors such as `like [B, S_shard, H, D]`, kept for the last shapes."""
        key = layout.whole, like.shape, like.dtype, like.device
        prepared = self._recent.pop(key, None)
        if prepared is None:
            while len(self._recent) >= RECENT:  # before new buffers come, the oldest ones go
                del self._recent[next(iter(self._recent))]
            scheduler = self.scheduler(layout, like, reuse_buffers=True)
            partition = scheduler.partition
            members = partition.members(partition.group_of(self.topology.rank))
            counts = [len(partition.heads(member)) for member in members]
            prepared = PreparedExchange(scheduler, packing(counts, like.device))
        self._recent[key] = prepared  # at the end: the last to go
        return prepared

    def scheduler(self, layout: TokenLayout, like: Tensor, reuse_buffers: bool) -> Scheduler:
        """A new scheduler, for tensors such as `like [B, S_shard, H, D]`."""
        batch, _, heads, head_dim = like.shape
        partition = self.partition(layout, heads, head_dim * like.dtype.itemsize)
        groups = self.topology.groups(partition)
        return Scheduler(
            partition=partition,
            rank=self.topology.rank,
            group=groups.ulysses,
            ring=groups.ring,
            batch=batch,
            head_dim=head_dim,
            dtype=like.dtype,
            device=like.device,
            timeout=self.topology.timeout,
            reuse_buffers=reuse_buffers,
            progress=self.topology.progress,
        )

    def origins(self, partition: Partition) -> list[int]:
        """Numbers of the groups whose keys come round to this rank, in order, its own first."""
        own = partition.group_of(self.topology.rank)
        return [(own - turn) % partition.ring_degree for turn in range(partition.ring_degree)]


class UlyssesHandle:
    """One attention whose tokens are on their way."""

    q_scale = k_scale = None

    def __init__(
        self, attention: UlyssesAttention, layout: TokenLayout, instead: Instead | None
    ) -> None:
        self._attention, self._layout, self._instead = attention, layout, instead
        self.packing: Packing | None = None

    def put_v(self, v: Tensor) -> None:
        self._scheduler = self._chosen_scheduler(v)
        if self._instead is not None:
            check_heads_are_whole(self._scheduler.partition)
        self._origins = self._attention.origins(self._scheduler.partition)
        self._padding = [self._padding_of(origin) for origin in self._origins]
        between_graphs(self._scheduler.send, Slot.V, v)

    def _chosen_scheduler(self, v: Tensor) -> Scheduler | DifferentiableScheduler:
        if torch.is_grad_enabled():  # one of its own: a recomputation may run amid the backward
            own = self._attention.scheduler(self._layout, v, reuse_buffers=False)
            return DifferentiableScheduler(own)
        prepared = self._attention.prepared(self._layout, v)
        if prepared.scheduler.partition.chunks == 1:
            self.packing = prepared.packing
        return prepared.scheduler

    def _padding_of(self, origin: int) -> Padding | None:
        """Numbers of a group's valid tokens; None if none is padding."""
        if self._layout.lengths is None:
            return None
        if len(self._origins) == 1:
            return padding_of(self._layout)
        span = self._scheduler.partition.group_span(origin)
        return padding_of(self._layout, span.start, span.stop)

    def put_k(self, k: Tensor) -> None:
        self._send(Slot.K, k)

    def put_q(self, q: Tensor) -> None:
        self._send(Slot.Q, q)

    def _send(self, slot: Slot, tokens: Tensor) -> None:
        if self.packing is None:
            between_graphs(self._scheduler.send, slot, tokens)
        else:
            between_graphs(self._scheduler.send_packed, slot, tokens)

    def result(self, overlap: Overlap) -> Tensor:
        overlap.advance()  # under q
        attend = self._attend if len(self._origins) == 1 else self._attend_round
        for chunk in range(self._scheduler.partition.chunks):
            between_graphs(self._scheduler.send_back, Slot.O, chunk, attend(chunk))
        overlap.advance()  # under what comes back
        return between_graphs(self._scheduler.receive_back, Slot.O).flatten(2)

    def _attend(self, chunk: int) -> Tensor:
        q, k, v = between_graphs(_each, self._scheduler.receive, (Slot.Q, Slot.K, Slot.V), chunk)
        given = self._attention.local.backend, q, k, v, self._padding[0]
        if self._instead is None:
            return attend(*given)
        layout = self._layout._replace(img_len=self._layout.whole[0], whole=None, start=0)
        return self._instead(inputs_of(*given, layout))

    def _attend_round(self, chunk: int) -> Tensor:
        """Attend to every group's keys; the next group's arrive during the attention to these."""
        rounds = self._round(chunk)
        if torch.is_grad_enabled():  # parts cannot be differentiated: all keys at once
            in_order = (keys for _, keys in sorted(zip(self._origins, rounds, strict=True)))
            k, v = (torch.cat(each, dim=1) for each in zip(*in_order, strict=True))
            (q,) = between_graphs(_each, self._scheduler.receive, (Slot.Q,), chunk)
            at = None if self._layout.lengths is None else padding_of(self._layout)
            return attend(self._attention.local.backend, q, k, v, at)
        backend, keys = self._attention.local.backend, next(rounds)
        (q,) = between_graphs(_each, self._scheduler.receive, (Slot.Q,), chunk)
        done = attend_with_lse(backend, q, *keys, self._padding[0])
        for keys, padding in zip(rounds, self._padding[1:], strict=True):
            done = merge(done, attend_with_lse(backend, q, *keys, padding))
        return done.out.to(q.dtype)

    def _round(self, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every group's keys and values in turn; each is passed on as soon as it is here."""
        slots = Slot.K, Slot.V
        here = between_graphs(_each, self._scheduler.receive, slots, chunk)
        for origin in self._origins[:-1]:
            for slot, heads in zip(slots, here, strict=True):
                between_graphs(self._scheduler.pass_on, slot, chunk, origin, heads)
            yield here
            here = between_graphs(_each, self._scheduler.receive_passed, slots, chunk)
        yield here


def _each(receive: Callable[[Slot, int], Tensor], slots: Sequence[Slot], chunk: int) -> Any:
    return tuple(receive(slot, chunk) for slot in slots)
