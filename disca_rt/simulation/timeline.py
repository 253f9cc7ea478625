"""Simulator of ranks that compute, send and wait: each runs a program, and gets a timeline.

A program is a list of instructions: compute for so long, start a transfer, wait for one. A transfer
begins when all its ranks have started it and everything before it on their wires is over: a wire is
first in, first out. Knows no tensors, partitions or clocks; durations are whatever it is given.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

COMPUTE = "compute"  # the lane of every rank that is not a wire


class Compute(NamedTuple):
    """Instruction to compute for `seconds`; pictures have a colour for each `kind`."""

    name: str
    kind: str
    seconds: float


class Transfer(NamedTuple):
    """Exchange among `ranks`, over the wire called `wire` of each; `name` tells it from others."""

    name: str
    kind: str
    wire: str
    ranks: tuple[int, ...]
    seconds: float


class Start(NamedTuple):
    """Instruction to hand a transfer to its wire and go on at once."""

    transfer: Transfer


class Wait(NamedTuple):
    """Instruction to stand still until a transfer that was started is over."""

    transfer: Transfer


Instruction = Compute | Start | Wait
Program = Sequence[Instruction]


class Activity(NamedTuple):
    """Use of a lane from `start` to `stop` (seconds); a lane is `COMPUTE` or a wire's name."""

    lane: str
    name: str
    kind: str
    start: float
    stop: float


class RankTimeline(NamedTuple):
    """Activities of one rank, of each lane in order of time; `seconds` until its program ended."""

    activities: tuple[Activity, ...]
    seconds: float

    @property
    def lanes(self) -> list[str]:
        """Names of the lanes in use, compute first, then the wires in alphabetical order."""
        return [COMPUTE, *sorted({each.lane for each in self.activities} - {COMPUTE})]

    def busy(self, lane: str) -> float:
        """Seconds that `lane` was in use."""
        return sum(each.stop - each.start for each in self.activities if each.lane == lane)


def simulate(programs: Sequence[Program]) -> list[RankTimeline]:
    """Runs `programs`, one for each rank, all from second 0; returns each rank's timeline.

    ValueError where ranks would wait for ever.
    """
    ranks = [_Rank(program) for program in programs]
    arrivals: dict[Transfer, float] = {}
    moving = True
    while moving:
        ran = [rank.run(arrivals) for rank in ranks]
        moving = any([*ran, _transfer_all(ranks, arrivals)])
    for number, rank in enumerate(ranks):
        if rank.program or rank.queues():
            raise ValueError(f"rank {number} waits for ever at {rank.blocked()}")
    return [RankTimeline(tuple(rank.activities), rank.now) for rank in ranks]


class _Rank:
    """Simulated rank: the rest of its program, and the queue before each of its wires."""

    def __init__(self, program: Iterable[Instruction]) -> None:
        self.program = deque(program)
        self.now = 0.0
        self.activities: list[Activity] = []
        self.wires: dict[str, deque[tuple[Transfer, float]]] = {}  # with the second it was started
        self.free: dict[str, float] = {}

    def run(self, arrivals: dict[Transfer, float]) -> bool:
        """Runs until an instruction has to wait; returns whether any was done."""
        left = len(self.program)
        while self.program and self._do(self.program[0], arrivals):
            self.program.popleft()
        return len(self.program) < left

    def _do(self, instruction: Instruction, arrivals: dict[Transfer, float]) -> bool:
        if isinstance(instruction, Compute):
            stop = self.now + instruction.seconds
            self.activities.append(
                Activity(COMPUTE, instruction.name, instruction.kind, self.now, stop)
            )
            self.now = stop
        elif isinstance(instruction, Start):
            transfer = instruction.transfer
            self.wires.setdefault(transfer.wire, deque()).append((transfer, self.now))
        elif instruction.transfer in arrivals:
            self.now = max(self.now, arrivals[instruction.transfer])
        else:
            return False
        return True

    def queues(self) -> list[deque[tuple[Transfer, float]]]:
        return [queue for queue in self.wires.values() if queue]

    def ready(self, transfer: Transfer) -> float | None:
        """Second from which the rank can carry `transfer`; None unless it is next on its wire."""
        queue = self.wires.get(transfer.wire)
        if not queue or queue[0][0] != transfer:
            return None
        return max(queue[0][1], self.free.get(transfer.wire, 0.0))

    def carry(self, transfer: Transfer, start: float) -> None:
        self.wires[transfer.wire].popleft()
        self.free[transfer.wire] = stop = start + transfer.seconds
        self.activities.append(Activity(transfer.wire, transfer.name, transfer.kind, start, stop))

    def blocked(self) -> str:
        if not self.program:
            return f"{self.queues()[0][0][0].name}, which not all its ranks start"
        return self.program[0].transfer.name


def _transfer_all(ranks: Sequence[_Rank], arrivals: dict[Transfer, float]) -> bool:
    """Carries each transfer that is next on all its ranks' wires; returns whether any was."""
    heads = {queue[0][0] for rank in ranks for queue in rank.queues()}
    has_carried = False
    for transfer in heads:
        ready = [ranks[rank].ready(transfer) for rank in transfer.ranks]
        if None in ready:
            continue
        start = max(ready)
        for rank in transfer.ranks:
            ranks[rank].carry(transfer, start)
        arrivals[transfer] = start + transfer.seconds
        has_carried = True
    return has_carried
