"""Ranks of one process on one device: threads, each a stream on a GPU, with a wire between them.

Work and wire take the seconds that they are given, by sleeping or by a kernel that spins on one SM,
so that neither slows the other and a simulation can be held against the clock. What is exchanged
does arrive. Knows no simulator.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = 60.0  # seconds


class CpuMachine:
    """Stamps are seconds; the wire is a thread."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self._wire = ThreadPoolExecutor(max_workers=1)

    def spin(self, seconds: float) -> None:
        time.sleep(seconds)

    def stamp(self) -> float:
        return time.perf_counter()

    def between(self, before: float, after: float) -> float:
        return after - before

    def lane(self) -> AbstractContextManager:
        """The device on which a rank computes."""
        return nullcontext()

    def carry(self, job: Callable[[], None], after: list[float]) -> Future:
        """`job` on the wire, which is free when it is over."""
        return self._wire.submit(job)

    def wait(self, carried: Future) -> None:
        carried.result(PATIENCE)

    def settle(self) -> None:
        """Wait until everything is over."""


class GpuMachine:
    """Stamps are events; the wire is a stream."""

    device = torch.device("cuda")

    def __init__(self) -> None:
        self._wire = torch.cuda.Stream()
        self._cycles = 1e6  # a second, until it is known
        self.spin(1.0)
        start = self.stamp()
        self.spin(100.0)
        stop = self.stamp()
        self.settle()
        self._cycles = 1e8 / self.between(start, stop)

    def spin(self, seconds: float) -> None:
        torch.cuda._sleep(int(seconds * self._cycles))

    def stamp(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, before: torch.cuda.Event, after: torch.cuda.Event) -> float:
        return before.elapsed_time(after) / 1e3

    def lane(self) -> AbstractContextManager:
        return torch.cuda.stream(torch.cuda.Stream())

    def carry(self, job: Callable[[], None], after: list[torch.cuda.Event]) -> torch.cuda.Event:
        with torch.cuda.stream(self._wire):
            for event in after:
                self._wire.wait_event(event)
            job()
            return self.stamp()

    def wait(self, carried: torch.cuda.Event) -> None:
        torch.cuda.current_stream().wait_event(carried)

    def settle(self) -> None:
        torch.cuda.synchronize()


Machine = CpuMachine | GpuMachine


class _End(NamedTuple):
    """One rank's of an exchange; rows to and from every rank."""

    sent: Tensor
    received: Tensor
    send_rows: list[int]
    receive_rows: list[int]
    ready: Any


class _Exchange(dist.Work):
    """Begins when every rank has come to it."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine, self.ends, self.carried = machine, {}, None
        self.begun = threading.Event()

    def wait(self, timeout: object = None) -> bool:
        assert self.begun.wait(PATIENCE), "not all ranks came"
        self.machine.wait(self.carried)
        return True


class Wire:
    """A link between `ranks`, first come first served; an exchange takes `seconds`."""

    def __init__(self, machine: Machine, ranks: int, seconds: float) -> None:
        self._machine, self._ranks, self._seconds = machine, ranks, seconds
        self._lock, self._counts = threading.Lock(), [0] * ranks
        self._exchanges: dict[int, _Exchange] = defaultdict(lambda: _Exchange(machine))
        self.log: list[tuple[Any, Any]] = []  # stamps, before and after

    def groups(self) -> list["_VirtualGroup"]:
        return [_VirtualGroup(self, rank, self._ranks) for rank in range(self._ranks)]

    def exchange(self, rank: int, end: _End) -> _Exchange:
        with self._lock:
            exchange = self._exchanges[self._counts[rank]]
            self._counts[rank] += 1
            exchange.ends[rank] = end
            if len(exchange.ends) == self._ranks:
                after = [each.ready for each in exchange.ends.values()]
                exchange.carried = self._machine.carry(lambda: self._carry(exchange.ends), after)
                exchange.begun.set()
        return exchange

    def _carry(self, ends: dict[int, _End]) -> None:
        start = self._machine.stamp()
        self._machine.spin(self._seconds)
        parts = {rank: end.sent.split(end.send_rows) for rank, end in ends.items()}
        for rank, end in ends.items():
            for peer, into in enumerate(end.received.split(end.receive_rows)):
                into.copy_(parts[peer][rank])
        self.log.append((start, self._machine.stamp()))


class _VirtualGroup(dist.ProcessGroup):
    """The tensors that a rank holds."""

    def __init__(self, wire: Wire, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self._wire = wire

    def all_to_all_single(
        self,
        received: Tensor,
        sent: Tensor,
        receive_rows: list[int],
        send_rows: list[int],
        options: object = None,
    ) -> dist.Work:
        ready = self._wire._machine.stamp()
        end = _End(sent, received, send_rows, receive_rows, ready)
        return self._wire.exchange(self.rank(), end)

    alltoall_base = all_to_all_single  # PyTorch 2.11's name


def on_ranks(machine: Machine, count: int, run: Callable[[int], None]) -> None:
    """`run(rank)` in a thread of each, where it computes."""

    def of_rank(rank: int) -> None:
        with torch.no_grad(), machine.lane():
            run(rank)

    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(of_rank, rank) for rank in range(count)]:
            done.result(PATIENCE)
    machine.settle()
