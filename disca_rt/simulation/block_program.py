"""What every rank does in one block, as steps for the simulator: compute, start, wait, in order.

Follows `UlyssesHandle` and `Scheduler` step by step: V, K and Q leave as each is made, in chunks of
heads; a chunk is attended when it is there, while K and V go on round the ring; its result leaves
under the next chunk. Durations come from elsewhere, measured or estimated.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..parallel._native import Plan
from .links import Links
from .timeline import Compute, Program, Start, Step, Timeline, Transfer, Wait, simulate

Pieces = tuple[Compute, ...]


class BlockWork(NamedTuple):
    """A rank's compute in one block, in order, with what leaves between.

    `pack_v`, `pack_kq` and `unpack` have a piece for each chunk of heads, and none where nothing is
    copied. In a single-stream block the MLP half is in two pieces, `under_q` and `under_o`.
    `attend` has for each chunk a piece for each ring step.
    """

    enter: Pieces
    v: Pieces
    k: Pieces
    q: Pieces
    pack_v: Pieces
    pack_kq: Pieces
    under_q: Pieces
    attend: tuple[Pieces, ...]
    under_o: Pieces
    unpack: Pieces
    leave: Pieces

    @property
    def seconds(self) -> float:
        """All of it."""
        parts = self._replace(pack_kq=2 * self.pack_kq, attend=sum(self.attend, ()))
        return sum(piece.seconds for part in parts for piece in part)


def simulate_block(plan: Plan, works: Sequence[BlockWork], links: Links) -> list[Timeline]:
    """One block on every rank of `plan`, begun together; `works` has each rank's."""
    traffic = _Traffic(plan, links)
    return simulate([_program(traffic, rank, work) for rank, work in enumerate(works)])


def _program(traffic: "_Traffic", rank: int, work: BlockWork) -> Program:
    chunks = range(traffic.plan.chunks)
    steps: list[Step] = [*work.enter]
    made = ("V", work.v, work.pack_v), ("K", work.k, work.pack_kq), ("Q", work.q, work.pack_kq)
    for slot, pieces, pack in made:
        steps += pieces
        for chunk in chunks:
            steps += pack[chunk : chunk + 1]
            steps += map(Start, traffic.exchange(rank, slot, chunk))
    steps += work.under_q
    for chunk in chunks:
        steps += _attend(traffic, rank, chunk, work.attend[chunk])
        steps += map(Start, traffic.exchange(rank, "O", chunk))
    steps += work.under_o
    for chunk in chunks:
        steps += map(Wait, traffic.exchange(rank, "O", chunk))
        steps += work.unpack[chunk : chunk + 1]
    return [*steps, *work.leave]


def _attend(traffic: "_Traffic", rank: int, chunk: int, pieces: Pieces) -> Iterator[Step]:
    """K and V leave for the next group when they are here, and are attended while they go."""
    for slot in ("K", "V"):
        yield from map(Wait, traffic.exchange(rank, slot, chunk))
    for step, piece in enumerate(pieces):
        if step > 0:
            yield from map(Wait, traffic.rotation(rank, chunk, step))
        if step + 1 < len(pieces):
            yield from map(Start, traffic.rotation(rank, chunk, step + 1))
        if step == 0:
            yield from map(Wait, traffic.exchange(rank, "Q", chunk))
        yield piece


class _Traffic:
    """The transfers of a plan: all ranks of one make the same of it."""

    def __init__(self, plan: Plan, links: Links) -> None:
        self.plan, self._links = plan, links
        groups = range(plan.ring_degree)
        self._group_tokens = max(map(plan.group_tokens, groups))
        self._rows = {
            (group, chunk): max(exchange_rows(plan, rank, chunk) for rank in plan.members(group))
            for group in groups
            for chunk in range(plan.chunks)
        }

    def exchange(self, rank: int, slot: str, chunk: int) -> list[Transfer]:
        """Of "V", "K", "Q" or "O" in `rank`'s Ulysses group; none where that is one rank."""
        group = self.plan.group_of(rank)
        ranks = tuple(self.plan.members(group))
        if len(ranks) == 1:
            return []
        name = slot if self.plan.chunks == 1 else f"{slot}{chunk}"
        return [self._transfer(name, slot, ranks, self._rows[group, chunk])]

    def rotation(self, rank: int, chunk: int, step: int) -> list[Transfer]:
        """K and V of a chunk's heads to the next group, where they are attended in `step`."""
        plan = self.plan
        ranks = tuple(range(rank % plan.ulysses_degree, plan.ranks, plan.ulysses_degree))
        most = self._group_tokens * len(plan.heads(rank, chunk))
        place = f"{step}" if plan.chunks == 1 else f"{step}.{chunk}"
        return [self._transfer(f"ring {slot}{place}", "ring", ranks, most) for slot in "KV"]

    def _transfer(self, name: str, kind: str, ranks: tuple[int, ...], rows: int) -> Transfer:
        wire, link = self._links.among(ranks)
        return Transfer(name, kind, wire, ranks, link.seconds(rows * self.plan.row_bytes))


def exchange_rows(plan: Plan, rank: int, chunk: int) -> int:
    """The more of what `rank` sends to and receives from others, in rows of one head."""
    ours = rank % plan.ulysses_degree
    sent, received = plan.send_rows(rank, chunk), plan.receive_rows(rank, chunk)
    return max(sum(rows) - rows[ours] for rows in (sent, received))
