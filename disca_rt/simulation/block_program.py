"""Programs of the ranks in one transformer block, for the simulator: compute, start and wait.

Follows `UlyssesHandle` and `Scheduler` step by step: V, K and Q leave as each is made, in chunks of
heads; a chunk is attended when it is there, while K and V go on round the ring; its result leaves
under the next chunk. Durations come from elsewhere, measured or estimated.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..parallel._native import Partition
from .links import Links
from .timeline import Compute, Instruction, Program, RankTimeline, Start, Transfer, Wait, simulate

Computes = tuple[Compute, ...]


class BlockWork(NamedTuple):
    """Compute of one rank in one block, in order; V, K, Q and O are exchanged between the parts.

    `pack_v`, `pack_kq` and `unpack` have one compute for each chunk of heads, and none where
    nothing is copied. A single-stream block's MLP half is split in two: `under_q` hides how Q
    travels, `under_o` how O does. `attend` has one compute for each chunk and ring step.
    """

    enter: Computes
    v: Computes
    k: Computes
    q: Computes
    pack_v: Computes
    pack_kq: Computes
    under_q: Computes
    attend: tuple[Computes, ...]
    under_o: Computes
    unpack: Computes
    leave: Computes

    @property
    def seconds(self) -> float:
        """Seconds of all its compute."""
        parts = self._replace(pack_kq=2 * self.pack_kq, attend=sum(self.attend, ()))
        return sum(compute.seconds for part in parts for compute in part)


def simulate_block(
    partition: Partition, works: Sequence[BlockWork], links: Links
) -> list[RankTimeline]:
    """Simulates one block on all ranks of `partition`, which begin together; `works` is by rank."""
    transfers = _Transfers(partition, links)
    return simulate([_program(transfers, rank, work) for rank, work in enumerate(works)])


def _program(transfers: "_Transfers", rank: int, work: BlockWork) -> Program:
    chunks = range(transfers.partition.chunks)
    program: list[Instruction] = [*work.enter]
    made = ("V", work.v, work.pack_v), ("K", work.k, work.pack_kq), ("Q", work.q, work.pack_kq)
    for slot, computes, pack in made:
        program += computes
        for chunk in chunks:
            program += pack[chunk : chunk + 1]
            program += map(Start, transfers.exchange(rank, slot, chunk))
    program += work.under_q
    for chunk in chunks:
        program += _attend(transfers, rank, chunk, work.attend[chunk])
        program += map(Start, transfers.exchange(rank, "O", chunk))
    program += work.under_o
    for chunk in chunks:
        program += map(Wait, transfers.exchange(rank, "O", chunk))
        program += work.unpack[chunk : chunk + 1]
    return [*program, *work.leave]


def _attend(
    transfers: "_Transfers", rank: int, chunk: int, computes: Computes
) -> Iterator[Instruction]:
    """Attends one chunk of heads; K and V go on round the ring while they are attended."""
    for slot in ("K", "V"):
        yield from map(Wait, transfers.exchange(rank, slot, chunk))
    for step, compute in enumerate(computes):
        if step > 0:
            yield from map(Wait, transfers.rotation(rank, chunk, step))
        if step + 1 < len(computes):
            yield from map(Start, transfers.rotation(rank, chunk, step + 1))
        if step == 0:
            yield from map(Wait, transfers.exchange(rank, "Q", chunk))
        yield compute


class _Transfers:
    """Transfers that a partition asks for, alike for all the ranks that take part in one."""

    def __init__(self, partition: Partition, links: Links) -> None:
        self.partition, self._links = partition, links
        groups = range(partition.ring_degree)
        self._group_tokens = max(map(partition.group_tokens, groups))
        self._rows = {
            (group, chunk): max(
                exchange_rows(partition, rank, chunk) for rank in partition.members(group)
            )
            for group in groups
            for chunk in range(partition.chunks)
        }

    def exchange(self, rank: int, slot: str, chunk: int) -> list[Transfer]:
        """Transfer of "V", "K", "Q" or "O" in `rank`'s Ulysses group; none in a group of one."""
        group = self.partition.group_of(rank)
        ranks = tuple(self.partition.members(group))
        if len(ranks) == 1:
            return []
        name = slot if self.partition.chunks == 1 else f"{slot}{chunk}"
        return [self._transfer(name, slot, ranks, self._rows[group, chunk])]

    def rotation(self, rank: int, chunk: int, step: int) -> list[Transfer]:
        """Transfers of a chunk's K and V to the next group, which attends them in `step`."""
        partition = self.partition
        ranks = tuple(
            range(rank % partition.ulysses_degree, partition.ranks, partition.ulysses_degree)
        )
        most = self._group_tokens * len(partition.heads(rank, chunk))
        place = f"{step}" if partition.chunks == 1 else f"{step}.{chunk}"
        return [self._transfer(f"ring {slot}{place}", "ring", ranks, most) for slot in "KV"]

    def _transfer(self, name: str, kind: str, ranks: tuple[int, ...], rows: int) -> Transfer:
        wire, link = self._links.among(ranks)
        return Transfer(name, kind, wire, ranks, link.seconds(rows * self.partition.row_bytes))


def exchange_rows(partition: Partition, rank: int, chunk: int) -> int:
    """Larger of the amounts that `rank` sends to and gets from other ranks, in rows of one head."""
    ours = rank % partition.ulysses_degree
    sent, received = partition.send_rows(rank, chunk), partition.receive_rows(rank, chunk)
    return max(sum(rows) - rows[ours] for rows in (sent, received))
