"""Block of one rank that notes when it comes to each of its stages.

The block and its attention are the real ones; only the clock is read around what they call. Over a
group that exchanges nothing that gives the seconds of every stage's compute. Knows no simulator.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from disca_rt.attention.backends import Attend
from disca_rt.attention.local import LocalAttention
from disca_rt.attention.protocol import Attention, NoOverlap, Overlap
from disca_rt.kernels.ops import Ops, get_ops
from disca_rt.models.blocks import DoubleStreamBlock, SingleStreamBlock
from disca_rt.models.stream import PendingSum, Stream, materialise
from disca_rt.parallel._native import Partition
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.simulation.block_program import BlockWork
from disca_rt.simulation.timeline import Compute
from disca_rt.tokens import StepContext, TokenLayout

TIMEOUT = timedelta(seconds=120)
VALUE_BYTES = 4  # fp32


@dataclass(frozen=True)
class Case:
    """Block to run: its `kind` in `BLOCKS`; where it does not attend, tokens are only moved."""

    name: str
    kind: str = "double"
    chunks: int = 1
    attends: bool = True
    img_tokens: int = 4064
    txt_tokens: int = 32
    hidden: int = 64
    heads: int = 8

    def partition(self, ranks: int) -> Partition:
        return Partition(
            img_tokens=self.img_tokens,
            txt_tokens=self.txt_tokens,
            heads=self.heads,
            ranks=ranks,
            head_chunks=self.chunks,
            row_bytes=self.hidden // self.heads * VALUE_BYTES,
        )


class Marks:
    """Moments in which a block came to its stages, and the seconds of attention to each chunk."""

    def __init__(self) -> None:
        self.moments: dict[str, float] = {}
        self.attended: list[float] = []

    def mark(self, name: str) -> None:
        self.moments[name] = time.perf_counter()

    def between(self, before: str, after: str) -> float:
        return self.moments[after] - self.moments[before]


class MarkedBlock:
    """Block of `case` over the ranks of `group`, with random weights and tokens."""

    def __init__(self, case: Case, group: ProcessGroup) -> None:
        self._attention = _Attention(case, group)
        self._ops = get_ops("reference", "cpu")
        given = self._ops, self._attention, case.hidden, case.heads
        torch.manual_seed(0)
        self._block = BLOCKS[case.kind](*given)
        shard = case.partition(group.size()).shard(group.rank())
        layout = TokenLayout(len(shard.img), None, (case.img_tokens, case.txt_tokens))
        angles = torch.rand(len(shard.img), case.hidden // case.heads // 2)
        vec = torch.randn(1, case.hidden)
        self._context = StepContext(vec, angles.cos(), angles.sin(), layout)
        self._tokens = torch.randn(1, shard.tokens, case.hidden)

    def run(self) -> Marks:
        """Runs the block once, begun together with the other ranks."""
        marks = self._attention.restart()
        dist.barrier()
        marks.mark("start")
        materialise(self._block((PendingSum(self._tokens),), self._context), self._ops)
        marks.mark("end")
        return marks


class AttentionAlone:
    """Attention in place of a block: its tensors are there already, and no work hides it."""

    def __init__(self, ops: Ops, attention: Attention, hidden: int, heads: int) -> None:
        self._attention, self._heads = attention, heads

    def __call__(self, stream: Stream, context: StepContext) -> Stream:
        tokens = stream[0].x.unflatten(-1, (self._heads, -1))
        handle = self._attention.begin(context.layout)
        handle.put_v(tokens)
        # Where heads are wanted in another order their number is the same, and none looks at them.
        ready = tokens if getattr(handle, "packing", None) is None else tokens.flatten(1, 2)
        handle.put_k(ready)
        handle.put_q(ready)
        return (PendingSum(handle.result(NoOverlap())),)


BLOCKS: dict[str, Callable[..., Any]] = {
    "double": partial(DoubleStreamBlock, merged=True),
    "single": SingleStreamBlock,
    "attention": AttentionAlone,
}


def to_work(runs: Sequence[Marks], chunks: int) -> BlockWork:
    """Work of a block for the simulator: the medians, by stage, of runs without an exchange."""

    def took(before: str, after: str) -> float:
        return median(run.between(before, after) for run in runs)

    def split(seconds: float, count: int = 1) -> tuple[Compute, ...]:
        return (Compute("", "", seconds / count),) * count

    attended = [median(each) for each in zip(*(run.attended for run in runs), strict=True)]
    packed = took("k made", "k left"), took("q made", "q left")
    return BlockWork(
        enter=(),
        v=split(took("start", "v made")),
        k=split(took("v left", "k made")),
        q=split(took("k left", "q made")),
        pack_v=split(took("v made", "v left"), chunks),
        pack_kq=split(sum(packed) / 2, chunks),
        under_q=split(took("q left", "under q")),
        attend=tuple(split(each) for each in attended),
        under_o=split(took("under q", "under o") - sum(attended)),
        unpack=split(took("under o", "received"), chunks),
        leave=split(took("received", "end")),
    )


class _Attention:
    """Sequence-parallel attention with the clock read around it."""

    def __init__(self, case: Case, group: ProcessGroup) -> None:
        self.local, self._current = LocalAttention(), [Marks()]
        timed = LocalAttention()
        attend = timed.backend.attend if case.attends else _pass_through
        timed.backend = replace(timed.backend, attend=_timed(attend, self._current))
        self._ulysses = UlyssesAttention(Topology(group, TIMEOUT), timed, case.chunks)
        self._ulysses.prepare(case.heads)

    def restart(self) -> Marks:
        self._current[0] = Marks()
        return self._current[0]

    def begin(self, layout: TokenLayout) -> "_Handle":
        return _Handle(self._current[0], self._ulysses.begin(layout))


def _timed(attend: Attend, current: list[Marks]) -> Attend:
    """Attention that adds its seconds to the marks in `current`. A method would make a cycle."""

    def run(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        start = time.perf_counter()
        out = attend(q, k, v, valid)
        current[0].attended.append(time.perf_counter() - start)
        return out

    return run


def _pass_through(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    return q.clone()


class _Handle:
    def __init__(self, marks: Marks, handle: Any) -> None:
        self._marks, self._handle = marks, handle

    def __getattr__(self, name: str) -> Any:
        """Attribute of the real handle, for all that a block may ask."""
        return getattr(self._handle, name)

    def put_v(self, v: Tensor) -> None:
        self._put("v", self._handle.put_v, v)

    def put_k(self, k: Tensor) -> None:
        self._put("k", self._handle.put_k, k)

    def put_q(self, q: Tensor) -> None:
        self._put("q", self._handle.put_q, q)

    def _put(self, slot: str, put: Any, tokens: Tensor) -> None:
        self._marks.mark(f"{slot} made")
        put(tokens)
        self._marks.mark(f"{slot} left")

    def result(self, work: Overlap) -> Tensor:
        out = self._handle.result(_Work(self._marks, work))
        self._marks.mark("received")
        return out


class _Work:
    def __init__(self, marks: Marks, work: Overlap) -> None:
        self._marks, self._work = marks, work
        self._names = iter(("under q", "under o"))

    def advance(self) -> None:
        self._work.advance()
        self._marks.mark(next(self._names))
