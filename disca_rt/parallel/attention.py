"""Attention over tokens that are shared out: a rank has some tokens of all heads, and trades them.

The same staged interface as local attention. V, K and Q leave as they are put, each under the work
that makes the next; what is attended leaves in chunks of heads, each under the attention of the
next (Ulysses, arXiv 2309.14509). With more ranks than heads, or ranks on several nodes, groups of
ranks do that and keys and values go round the groups, under the attention to those at hand (ring
attention, arXiv 2310.01889). Knows plans and process groups, no models.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ..apart import apart
from ..attention import LocalAttention, TokenLayout, Work
from ..kernels.packing import Packing, packing
from ._native import Plan, Scheduler, Slot
from .differentiable import DifferentiableScheduler
from .partial import get_partial_backend, merge
from .sharded import Sharded


class Groups(NamedTuple):
    """The ranks that trade tokens for heads, and those of one number in all such groups."""

    ulysses: ProcessGroup
    ring: ProcessGroup | None


class Exchange(NamedTuple):
    """One plan at work. `places [S_group]`: where the tokens are that a group has together.

    Groups are in the order in which their keys come round to this rank, its own first. `packing` is
    that of a member's heads.
    """

    scheduler: Scheduler
    packing: Packing
    groups: list[int]
    places: list[Tensor]


class UlyssesAttention:
    """Given to a model in place of `local`, whose backend it uses.

    `chunks`: pieces of a rank's heads. `ranks_per_node`: with several nodes, tokens are traded
    inside each and keys go round them; 0 where all ranks are in one. Both may be left to the plan.
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
        self.local, self.sharding = local, Sharded(group)
        self._group, self._timeout, self._chunks = group, timeout, chunks
        self._ranks_per_node, self._ulysses_degree = ranks_per_node, ulysses_degree
        self._groups: dict[int, Groups] = {}
        self._exchanges: dict[tuple, Exchange] = {}

    @property
    def begun(self) -> int:
        """How many exchanges have begun."""
        return sum(each.scheduler.begun for each in list(self._exchanges.values()))

    def begin(self, layout: TokenLayout) -> "UlyssesHandle":
        return UlyssesHandle(self, layout)

    def plan(self, layout: TokenLayout, heads: int, row_bytes: int) -> Plan:
        """Who has what of tokens laid out so; ValueError where these ranks cannot share them.

        `row_bytes` are those of one token's head.
        """
        img_tokens, txt_tokens = layout.whole
        return Plan(
            img_tokens=img_tokens,
            txt_tokens=txt_tokens,
            heads=heads,
            ranks=self._group.size(),
            ranks_per_node=self._ranks_per_node,
            ulysses_degree=self._ulysses_degree,
            head_chunks=self._chunks,
            row_bytes=row_bytes,
        )

    def exchange(self, layout: TokenLayout, like: Tensor) -> Exchange:
        """The one for tensors such as `like [B, S_shard, H, D]`; made at its first use."""
        batch, _, heads, head_dim = like.shape
        keep = torch.is_grad_enabled()
        key = layout.whole, batch, heads, head_dim, like.dtype, like.device, keep
        if key not in self._exchanges:
            plan = self.plan(layout, heads, head_dim * like.dtype.itemsize)
            rank = self._group.rank()
            ulysses, ring = self._split(plan)
            scheduler = Scheduler(
                plan=plan,
                rank=rank,
                group=ulysses,
                ring=ring,
                batch=batch,
                head_dim=head_dim,
                dtype=like.dtype,
                device=like.device,
                timeout=self._timeout,
                keep=keep,
            )
            own = plan.group_of(rank)
            groups = [(own - turn) % plan.ring_degree for turn in range(plan.ring_degree)]
            spans = (plan.group_span(group) for group in groups)
            places = [torch.arange(s.start, s.stop, device=like.device) for s in spans]
            counts = [len(plan.heads(member)) for member in plan.members(own)]
            packed = packing(counts, like.device)
            self._exchanges[key] = Exchange(scheduler, packed, groups, places)
        return self._exchanges[key]

    def _split(self, plan: Plan) -> Groups:
        """Every rank comes here for the same plan at the same time."""
        degree = plan.ulysses_degree
        if plan.ring_degree == 1:
            return Groups(self._group, None)
        if degree not in self._groups:
            ranks = dist.get_process_group_ranks(self._group)
            group, number = divmod(self._group.rank(), degree)
            subsets = ranks[group * degree : (group + 1) * degree], ranks[number::degree]
            self._groups[degree] = Groups(
                *(
                    dist.new_group(each, self._timeout, use_local_synchronization=True)
                    for each in subsets
                )
            )
        return self._groups[degree]


class UlyssesHandle:
    """One attention whose tokens are on their way."""

    def __init__(self, attention: UlyssesAttention, layout: TokenLayout) -> None:
        self._attention, self._layout = attention, layout
        self.packing: Packing | None = None

    def put_v(self, v: Tensor) -> None:
        exchange, lengths = self._attention.exchange(self._layout, v), self._layout.lengths
        self._scheduler: Scheduler | DifferentiableScheduler = exchange.scheduler
        self._groups = exchange.groups
        self._valid = [
            None if lengths is None else places < lengths[:, None] for places in exchange.places
        ]
        if torch.is_grad_enabled():
            self._scheduler = DifferentiableScheduler(exchange.scheduler)
        elif exchange.scheduler.plan.chunks == 1:
            self.packing = exchange.packing
        apart(self._scheduler.send, Slot.V, v)

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
        attend = self._attend if len(self._groups) == 1 else self._attend_round
        for chunk in range(self._scheduler.plan.chunks):
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
        for group in self._groups[:-1]:
            for slot, heads in zip(slots, here, strict=True):
                apart(self._scheduler.pass_on, slot, chunk, group, heads)
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
