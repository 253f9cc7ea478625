"""Attention over tokens that are shared out: a rank has some tokens of all heads, and trades them.

The same staged interface as local attention. V, K and Q leave as they are put, each under the work
that makes the next; what is attended leaves in chunks of heads, each under the attention of the
next (Ulysses, arXiv 2309.14509). Knows plans and one process group, no models.
"""

from datetime import timedelta
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ..attention import LocalAttention, TokenLayout, Work
from ._native import Plan, Scheduler, Slot


class Exchange(NamedTuple):
    """One plan at work: its `scheduler`, and where each gathered token was, `places [S_group]`."""

    scheduler: Scheduler
    places: Tensor


class UlyssesAttention:
    """Given to a model in place of `local`, whose backend it uses. `chunks` of a rank's heads."""

    def __init__(
        self,
        group: ProcessGroup,
        local: LocalAttention,
        timeout: timedelta,
        chunks: int = 1,
    ) -> None:
        self.local = local
        self._group, self._timeout, self._chunks = group, timeout, chunks
        self._exchanges: dict[tuple, Exchange] = {}

    @property
    def begun(self) -> int:
        """How many exchanges have begun."""
        return sum(each.scheduler.begun for each in self._exchanges.values())

    def begin(self, layout: TokenLayout) -> "UlyssesHandle":
        return UlyssesHandle(self, layout)

    def exchange(self, layout: TokenLayout, like: Tensor) -> Exchange:
        """The one for tensors such as `like [B, S_shard, H, D]`; made at its first use."""
        batch, _, heads, head_dim = like.shape
        key = layout.whole, batch, heads, head_dim, like.dtype, like.device
        if key not in self._exchanges:
            img_tokens, txt_tokens = layout.whole
            plan = Plan(
                img_tokens=img_tokens,
                txt_tokens=txt_tokens,
                heads=heads,
                ranks=self._group.size(),
                head_chunks=self._chunks,
            )
            scheduler = Scheduler(
                plan=plan,
                rank=self._group.rank(),
                group=self._group,
                batch=batch,
                head_dim=head_dim,
                dtype=like.dtype,
                device=like.device,
                timeout=self._timeout,
            )
            places = gathered_places(plan, self._group.rank()).to(like.device)
            self._exchanges[key] = Exchange(scheduler, places)
        return self._exchanges[key]


class UlyssesHandle:
    """One attention whose tokens are on their way."""

    def __init__(self, attention: UlyssesAttention, layout: TokenLayout) -> None:
        self._attention, self._layout = attention, layout

    def put_v(self, v: Tensor) -> None:
        self._send(Slot.V, v)

    def put_k(self, k: Tensor) -> None:
        self._send(Slot.K, k)

    def put_q(self, q: Tensor) -> None:
        self._send(Slot.Q, q)

    def _send(self, slot: Slot, tokens: Tensor) -> None:
        self._exchange = self._attention.exchange(self._layout, tokens)
        self._exchange.scheduler.send(slot, tokens)

    def result(self, work: Work) -> Tensor:
        work.advance()  # under q
        scheduler, places = self._exchange
        lengths, attend = self._layout.lengths, self._attention.local.backend
        valid = None if lengths is None else places < lengths[:, None]
        for chunk in range(scheduler.plan.chunks):
            q, k, v = (scheduler.receive(slot, chunk) for slot in (Slot.Q, Slot.K, Slot.V))
            scheduler.send_back(chunk, attend(q, k, v, valid))
        work.advance()  # under what comes back
        return scheduler.receive_back().flatten(2)


def gathered_places(plan: Plan, rank: int) -> Tensor:
    """Where each token of `rank`'s group was among the whole sample's, image first."""
    spans = []
    for member in plan.members(plan.group_of(rank)):
        shard = plan.shard(member)
        spans.append(torch.arange(shard.img.start, shard.img.stop))
        spans.append(plan.img_tokens + torch.arange(shard.txt.start, shard.txt.stop))
    return torch.cat(spans)
