"""When each of several ranks computes, sends and waits, from what each does and how long it takes.

A rank is a sequence of steps: compute for so long, start a transfer, wait for one. A transfer
begins when all its ranks have started it and everything before it on their wires is over: a wire is
first in, first out. Knows no tensors, plans or clocks; durations are whatever it is given.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

COMPUTE = "compute"  # the lane of every rank that is not a wire


class Compute(NamedTuple):
    """Work of `seconds`; `kind` is what a picture has a colour for."""

    name: str
    kind: str
    seconds: float


class Transfer(NamedTuple):
    """Among `ranks`, over each one's wire called `wire`; `name` is its own among these ranks."""

    name: str
    kind: str
    wire: str
    ranks: tuple[int, ...]
    seconds: float


class Start(NamedTuple):
    """Hand a transfer to the wire and go on."""

    transfer: Transfer


class Wait(NamedTuple):
    """Until a transfer that was started is over."""

    transfer: Transfer


Step = Compute | Start | Wait
Program = Sequence[Step]


class Event(NamedTuple):
    """Something on one lane: `COMPUTE`, or the name of a wire."""

    lane: str
    name: str
    kind: str
    start: float
    stop: float


class Timeline(NamedTuple):
    """What one rank did, by lane in order; `seconds` when it was over."""

    events: tuple[Event, ...]
    seconds: float

    @property
    def lanes(self) -> list[str]:
        """Compute first, then the wires by name."""
        return [COMPUTE, *sorted({event.lane for event in self.events} - {COMPUTE})]

    def busy(self, lane: str) -> float:
        """Seconds that a lane was in use."""
        return sum(event.stop - event.start for event in self.events if event.lane == lane)

    @property
    def idle(self) -> float:
        """Seconds without compute: waiting for wires, or through them for slower ranks."""
        return self.seconds - self.busy(COMPUTE)


def simulate(programs: Sequence[Program]) -> list[Timeline]:
    """What `programs`, one of each rank, take. ValueError where they wait for ever."""
    ranks = [_Rank(program) for program in programs]
    arrivals: dict[Transfer, float] = {}
    moving = True
    while moving:
        ran = [rank.run(arrivals) for rank in ranks]
        moving = any([*ran, _transfer_all(ranks, arrivals)])
    for number, rank in enumerate(ranks):
        if rank.steps or rank.queues():
            raise ValueError(f"rank {number} waits for ever at {rank.blocked()}")
    return [Timeline(tuple(rank.events), rank.now) for rank in ranks]


class _Rank:
    """Where a rank is in its program, and what lies before its wires."""

    def __init__(self, program: Iterable[Step]) -> None:
        self.steps = deque(program)
        self.now = 0.0
        self.events: list[Event] = []
        self.wires: dict[str, deque[tuple[Transfer, float]]] = {}  # with when it was started
        self.free: dict[str, float] = {}

    def run(self, arrivals: dict[Transfer, float]) -> bool:
        """As far as it can; whether it came any further."""
        left = len(self.steps)
        while self.steps and self._do(self.steps[0], arrivals):
            self.steps.popleft()
        return len(self.steps) < left

    def _do(self, step: Step, arrivals: dict[Transfer, float]) -> bool:
        if isinstance(step, Compute):
            stop = self.now + step.seconds
            self.events.append(Event(COMPUTE, step.name, step.kind, self.now, stop))
            self.now = stop
        elif isinstance(step, Start):
            self.wires.setdefault(step.transfer.wire, deque()).append((step.transfer, self.now))
        elif step.transfer in arrivals:
            self.now = max(self.now, arrivals[step.transfer])
        else:
            return False
        return True

    def queues(self) -> list[deque[tuple[Transfer, float]]]:
        return [queue for queue in self.wires.values() if queue]

    def ready(self, transfer: Transfer) -> float | None:
        """From when this rank can carry `transfer`; None where it is not the next on its wire."""
        queue = self.wires.get(transfer.wire)
        if not queue or queue[0][0] != transfer:
            return None
        return max(queue[0][1], self.free.get(transfer.wire, 0.0))

    def carry(self, transfer: Transfer, start: float) -> None:
        self.wires[transfer.wire].popleft()
        self.free[transfer.wire] = stop = start + transfer.seconds
        self.events.append(Event(transfer.wire, transfer.name, transfer.kind, start, stop))

    def blocked(self) -> str:
        if not self.steps:
            return f"{self.queues()[0][0][0].name}, which not all its ranks start"
        return self.steps[0].transfer.name


def _transfer_all(ranks: Sequence[_Rank], arrivals: dict[Transfer, float]) -> bool:
    """Carry what is next on all its ranks' wires; whether there was any."""
    heads = {queue[0][0] for rank in ranks for queue in rank.queues()}
    carried = False
    for transfer in heads:
        ready = [ranks[rank].ready(transfer) for rank in transfer.ranks]
        if None in ready:
            continue
        start = max(ready)
        for rank in transfer.ranks:
            ranks[rank].carry(transfer, start)
        arrivals[transfer] = start + transfer.seconds
        carried = True
    return carried
