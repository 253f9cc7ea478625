"""Bytes that a rank sends, receives and keeps for one attention, and over which wire.

Counts what goes to other ranks only. Knows a partition and where its ranks are, no times.
"""

from typing import NamedTuple

from ..parallel._native import Partition
from .links import Links


class Traffic(NamedTuple):
    """Bytes that one rank sends and receives in one attention; `qkv` is V, K and Q, each."""

    qkv_sent: int
    qkv_received: int
    ring_sent: int
    ring_received: int

    @property
    def exchange_sent(self) -> int:
        """V, K, Q out, and O back: there senders and receivers have changed places."""
        return 3 * self.qkv_sent + self.qkv_received

    @property
    def exchange_received(self) -> int:
        return 3 * self.qkv_received + self.qkv_sent


def traffic(partition: Partition, rank: int) -> Traffic:
    """Bytes of `rank` in one attention under `partition`, computed from its shares."""
    ours, tokens = len(partition.heads(rank)), partition.shard(rank).tokens
    group = partition.group_of(rank)
    return Traffic(
        qkv_sent=tokens * (partition.num_heads - ours) * partition.row_bytes,
        qkv_received=(partition.group_tokens(group) - tokens) * ours * partition.row_bytes,
        ring_sent=partition.ring_bytes(rank),
        ring_received=2 * _others(partition, group) * ours * partition.row_bytes,
    )


def wires(partition: Partition, links: Links) -> tuple[str, str]:
    """Names of the wires that the exchange and the ring of the first rank take."""
    exchange = tuple(partition.members(0))
    ring = tuple(range(0, partition.ranks, partition.ulysses_degree))
    return links.among(exchange)[0], links.among(ring)[0]


def buffer_bytes(partition: Partition, rank: int) -> int:
    """Largest number of bytes that the scheduler of `rank` keeps in buffers for a batch of one.

    In one chunk K and Q are sent from where they were made. What comes back has a buffer as it
    arrives, and one in which a rank's tokens have all heads. A ring needs K and V of one
    group more, or of two: those being attended and those that come.
    """
    if partition.ranks == 1:
        return 0
    shard = partition.shard(rank).tokens * partition.num_heads
    ours = len(partition.heads(rank))
    gathered = partition.group_tokens(partition.group_of(rank)) * ours
    groups = range(partition.ring_degree)
    turns = min(len(groups) - 1, 2)  # a third one writes over the first
    passed = 2 * turns * max(map(partition.group_tokens, groups)) * ours
    sent = 1 if partition.chunks == 1 else 3
    return (sent * shard + 3 * gathered + 2 * shard + passed) * partition.row_bytes


def _others(partition: Partition, group: int) -> int:
    """Number of tokens of all groups but `group`."""
    return partition.img_tokens + partition.txt_tokens - partition.group_tokens(group)
