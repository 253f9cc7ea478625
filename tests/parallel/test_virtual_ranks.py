"""The simulator against the clock: the scheduler's blocks with work and wires of known seconds.

What leaves when, and what waits for what, is the attention's own; only durations are given. Ranks
are threads of this process, on a CPU and on one GPU alike.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from disca_rt.attention.local import LocalAttention
from disca_rt.parallel._native import Partition
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.simulation.block_program import BlockWork, simulate_block
from disca_rt.simulation.links import Link, Links
from disca_rt.simulation.timeline import COMPUTE, Compute
from disca_rt.tokens import TokenLayout
from parallel.virtual_ranks import CpuMachine, GpuMachine, Machine, Wire, on_ranks

UNIT = 0.2  # seconds; on crowded cores a thread wakes some milliseconds late, ten times in a block
ROUNDS = 2  # of which the faster is compared
WIDTH = 4

MACHINES = [
    pytest.param(CpuMachine, id="cpu"),
    pytest.param(GpuMachine, id="gpu", marks=pytest.mark.gpu),
]


class Case(NamedTuple):
    """Units of one rank's compute; `attend` of each rank, in as many chunks as a partition has."""

    attend: tuple[float, ...] = (3, 3)
    chunks: int = 1
    under_q: float = 0
    under_o: float = 0
    wire: float = 1

    @property
    def ranks(self) -> int:
        return len(self.attend)

    def partition(self) -> Partition:
        return Partition(
            img_tokens=12,
            txt_tokens=0,
            heads=2 * self.ranks,
            ranks=self.ranks,
            head_chunks=self.chunks,
            row_bytes=4 * WIDTH,
        )

    def work(self, rank: int) -> BlockWork:
        parts = {"enter": 1, "v": 2, "k": 2, "q": 1, "leave": 1}
        parts |= {"under_q": self.under_q, "under_o": self.under_o}
        pieces = {name: (Compute(name, "", UNIT * units),) for name, units in parts.items()}
        attend = (Compute("attend", "", UNIT * self.attend[rank] / self.chunks),)
        nothing = dict.fromkeys(("pack_v", "pack_kq", "unpack"), ())
        return BlockWork(**pieces, **nothing, attend=(attend,) * self.chunks)


CASES = {
    "double-stream": Case(),
    "single-stream": Case(under_q=2, under_o=2),
    "chunks": Case(chunks=2, attend=(4, 4)),
    "a slower rank": Case(attend=(2, 4, 2)),
    "a slow wire": Case(under_q=2, wire=3),
}


class Measured(NamedTuple):
    """Seconds since a block began: of every rank's end, and the wire's exchanges in order."""

    ends: list[float]
    wire: list[tuple[float, float]]


class Block:
    """One block on all ranks of a case, as the simulator has it."""

    def __init__(self, case: Case, machine: Machine) -> None:
        self._case, self._machine = case, machine
        self._wire = Wire(machine, case.ranks, UNIT * case.wire)
        self._attentions = [
            UlyssesAttention(Topology(group, timedelta(seconds=60)), self._local(rank), case.chunks)
            for rank, group in enumerate(self._wire.groups())
        ]

    def _local(self, rank: int) -> LocalAttention:
        local, seconds = LocalAttention(), self._case.work(rank).attend[0][0].seconds

        def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
            self._machine.spin(seconds)
            return q.clone()

        local.backend = replace(local.backend, attend=attend)
        return local

    def measured(self) -> Measured:
        self._wire.log.clear()
        self._machine.settle()
        start, stops = self._machine.stamp(), [None] * self._case.ranks
        on_ranks(self._machine, self._case.ranks, lambda rank: self._run(rank, start, stops))
        since = [self._machine.between(start, stop) for stop in stops]
        wire = [
            tuple(self._machine.between(start, each) for each in both) for both in self._wire.log
        ]
        return Measured(since, wire)

    def _run(self, rank: int, start: Any, stops: list) -> None:
        spin, work = self._machine.spin, self._case.work(rank)
        attention = self._attentions[rank]
        rows, _ = attention.sharding.share(12, 0)
        tokens = torch.ones(1, rows, 2 * self._case.ranks, WIDTH, device=self._machine.device)
        handle = attention.begin(TokenLayout(rows, None, (12, 0)))
        spin(work.enter[0].seconds + work.v[0].seconds)
        handle.put_v(tokens)
        ready = tokens if handle.packing is None else tokens.flatten(1, 2)
        spin(work.k[0].seconds)
        handle.put_k(ready)
        spin(work.q[0].seconds)
        handle.put_q(ready)
        handle.result(_Pieces(spin, [work.under_q[0].seconds, work.under_o[0].seconds]))
        spin(work.leave[0].seconds)
        stops[rank] = self._machine.stamp()


class _Pieces:
    """Work of a block under the exchanges."""

    def __init__(self, spin: Callable[[float], None], seconds: list[float]) -> None:
        self._spin, self._seconds = spin, seconds

    def advance(self) -> None:
        self._spin(self._seconds.pop(0))


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", CASES)
def test_the_simulator_says_when_what_happens(name: str, machine: type[Machine]) -> None:
    case = CASES[name]
    link = Link(float("inf"), 1e6 * UNIT * case.wire)
    works = [case.work(rank) for rank in range(case.ranks)]
    predicted = simulate_block(case.partition(), works, Links(link))
    block = Block(case, machine())
    block.measured()  # makes buffers
    rounds = [block.measured() for _ in range(ROUNDS)]
    best = min(rounds, key=lambda each: max(each.ends))
    for ours, timeline in zip(best.ends, predicted, strict=True):
        assert ours == pytest.approx(timeline.seconds, abs=UNIT / 2)
    said = [(e.start, e.stop) for e in predicted[0].activities if e.lane != COMPUTE]
    assert len(said) == len(best.wire)
    for ours, theirs in zip(best.wire, said, strict=True):
        assert ours == pytest.approx(theirs, abs=UNIT / 2)


@pytest.mark.gpu
def test_a_profile_shows_the_overlap() -> None:
    """A single-stream block on one GPU: V, K, Q and O all travel under compute."""
    wire = 1.5  # units, as no compute is
    block = Block(CASES["single-stream"]._replace(wire=wire), GpuMachine())
    block.measured()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        block.measured()
    kernels = [each for each in profiled.events() if each.device_type.name == "CUDA"]
    spins = [each.time_range for each in kernels if "spin" in each.name]
    transfers = [each for each in spins if abs(each.elapsed_us() / 1e6 / UNIT - wire) < 0.2]
    compute = [each for each in spins if each not in transfers]
    assert len(transfers) == 4
    for each in transfers:
        assert any(other.start < each.end and each.start < other.end for other in compute)
