"""Bytes of a plan: what a rank sends and receives in one attention, over which wire, and keeps.

Counts what goes to other ranks only. Knows a plan and where its ranks are, no times.
"""

from typing import NamedTuple

from ..parallel._native import Plan
from .links import Links


class Traffic(NamedTuple):
    """Of one rank in one attention, in bytes; `qkv` is V, K and Q each."""

    qkv_sent: int
    qkv_received: int
    ring_sent: int
    ring_received: int

    @property
    def o_sent(self) -> int:
        """The way back has both exchanged."""
        return self.qkv_received

    @property
    def o_received(self) -> int:
        return self.qkv_sent

    @property
    def exchange_sent(self) -> int:
        return 3 * self.qkv_sent + self.o_sent

    @property
    def exchange_received(self) -> int:
        return 3 * self.qkv_received + self.o_received


def traffic(plan: Plan, rank: int) -> Traffic:
    ours, tokens = len(plan.heads(rank)), plan.shard(rank).tokens
    group = plan.group_of(rank)
    return Traffic(
        qkv_sent=tokens * (plan.num_heads - ours) * plan.row_bytes,
        qkv_received=(plan.group_tokens(group) - tokens) * ours * plan.row_bytes,
        ring_sent=plan.ring_bytes(rank),
        ring_received=2 * _others(plan, group) * ours * plan.row_bytes,
    )


def wires(plan: Plan, links: Links, rank: int = 0) -> tuple[str, str]:
    """The names of those that the exchange and the ring take."""
    exchange = tuple(plan.members(plan.group_of(rank)))
    ring = tuple(range(rank % plan.ulysses_degree, plan.ranks, plan.ulysses_degree))
    return links.among(exchange)[0], links.among(ring)[0]


def buffer_bytes(plan: Plan, rank: int) -> int:
    """What the scheduler of `rank` keeps for a batch of one, at most: sent, received, passed on.

    In one chunk K and Q are sent from where they were made. A ring needs K and V of one
    group more, or of two: those being attended and those that come.
    """
    if plan.ranks == 1:
        return 0
    shard = plan.shard(rank).tokens * plan.num_heads
    ours = len(plan.heads(rank))
    gathered = plan.group_tokens(plan.group_of(rank)) * ours
    groups = range(plan.ring_degree)
    turns = min(len(groups) - 1, 2)  # a third one writes over the first
    passed = 2 * turns * max(map(plan.group_tokens, groups)) * ours
    sent = 1 if plan.chunks == 1 else 3
    return (sent * shard + 3 * gathered + shard + passed) * plan.row_bytes


def _others(plan: Plan, group: int) -> int:
    """Tokens of all groups but `group`."""
    return plan.img_tokens + plan.txt_tokens - plan.group_tokens(group)
