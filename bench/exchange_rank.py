"""Rank of `bench.exchange`, started by torchrun: measures with the others; rank 0 writes.

A sample starts on all ranks after a barrier. Its time is the slowest rank's, its CPU time that of
all ranks together. Before a comparison is timed, all contenders' outputs are compared bit by bit
on every rank.
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from disca_rt.measure.diffusers_models import Unavailable
from disca_rt.measure.harness import Comparison, Contender, host_timer, measure
from disca_rt.measure.machine import this_machine
from disca_rt.measure.rank_timer import slowest
from disca_rt.measure.record import write_records
from disca_rt.parallel._native import Partition

from .exchange_task import Task, attention_layer, exchange_alone
from .traffic import traffic
from .ulysses import LEFT_OUT, Attend, Traded, Ulysses, Way, ways

GOAL = 1.0
SAMPLES = 40
WARMUP = 3


@dataclass(frozen=True)
class Shape:
    """Shape over all ranks; `has_layer`: with projections and attention around the exchange."""

    name: str
    img_tokens: int
    txt_tokens: int
    heads: int
    head_dim: int
    dtype: torch.dtype = torch.bfloat16
    batch: int = 1
    has_layer: bool = False


REAL = (
    Shape("exchange, even", 3840, 256, 24, 64),
    Shape("exchange, fp32", 3840, 256, 24, 64, torch.float32),
    Shape("exchange, two samples", 1920, 128, 24, 64, batch=2),
    Shape("exchange, uneven", 3965, 78, 23, 64),
    Shape("attention layer", 960, 64, 8, 32, torch.float32, has_layer=True),
)
SMALL = (
    Shape("exchange, even", 24, 8, 8, 4),
    Shape("exchange, two samples", 24, 8, 8, 4, torch.float32, batch=2),
    Shape("exchange, uneven", 22, 7, 11, 4),
    Shape("attention layer", 24, 8, 8, 4, torch.float32, has_layer=True),
)
"""Shape whose heads diffusers can pad on up to four ranks: it pads less than a rank has."""


def main() -> None:
    args = _parser().parse_args()
    warnings.filterwarnings("ignore")  # each rank would warn of what contenders call
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    mesh = init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("ring", "ulysses"))
    with torch.inference_mode():
        for shape in SMALL if args.small else REAL:
            _measure(shape, mesh, args.samples or SAMPLES, args.out)
    dist.barrier()
    dist.destroy_process_group()


def _measure(shape: Shape, mesh: DeviceMesh, samples: int, out: Path) -> None:
    comparison = compare(shape, mesh)
    _tell(f"{comparison.name}: {samples} samples")
    clock = slowest(host_timer()._replace(warmup=WARMUP), dist.group.WORLD, torch.device("cpu"))
    records = measure(comparison, samples, this_machine(), threads=1, timer=clock)
    if dist.get_rank() == 0:
        write_records(out, records)


def compare(shape: Shape, mesh: DeviceMesh) -> Comparison:
    """Comparison of the contenders; RuntimeError where one's output differs in any bit."""
    ranks = mesh.size()
    partition = Partition(
        img_tokens=shape.img_tokens, txt_tokens=shape.txt_tokens, heads=shape.heads, ranks=ranks
    )
    name = f"{shape.name}, {ranks} ranks"
    shard = partition.shard(dist.get_rank()).tokens
    like = torch.empty(shape.batch, shard, shape.heads, shape.head_dim, dtype=shape.dtype)
    traded = Traded(partition, like, mesh)
    if not traded.is_even:
        _tell(f"{name}: {LEFT_OUT}")
    task = (attention_layer if shape.has_layer else exchange_alone)(traded)
    contenders: list[Contender] = []
    for way, ulysses in _built(traded):
        out = _run(task, way, ulysses, task.check)
        task = task._replace(expected=out) if task.expected is None else task
        _check_same(way.name, out, task.expected)
        contenders.append(_contender(shape, traded, task, way, ulysses))
    return Comparison(
        name=name,
        shape=_describe(shape, ranks),
        dtype=str(shape.dtype).removeprefix("torch."),
        contenders=contenders,
        samples=SAMPLES,
        relative_difference=0.0,
    )


def _built(traded: Traded) -> Iterator[tuple[Way, Ulysses]]:
    for way in ways(traded):
        try:
            yield way, way.build(traded)
        except Unavailable as error:
            _tell(f"no {way.name}: {error}")


def _run(task: Task, way: Way, ulysses: Ulysses, attend: Attend) -> Tensor:
    return task.finish(ulysses(task.packed if way.is_packed else task.tokens, attend))


def _check_same(name: str, out: Tensor, expected: Tensor) -> None:
    if not torch.equal(out, expected):
        raise RuntimeError(
            f"rank {dist.get_rank()}: {name} gives something else, so nothing was timed"
        )


def _contender(shape: Shape, traded: Traded, task: Task, way: Way, ulysses: Ulysses) -> Contender:
    run = partial(_run, task, way, ulysses, task.attend)
    run()
    dist.barrier()
    moved = traffic(run, traded.like.element_size())
    passes = moved.copied_elements / traded.like.numel()
    most = torch.tensor([moved.sent_bytes, passes], dtype=torch.float64)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    sent, passes = most.tolist()
    return Contender(
        way.name,
        run,
        note=_note(shape, way),
        goal=GOAL if way.name.startswith("ours") else None,
        sent_bytes=int(sent),
        passes=0.0 if shape.has_layer else passes,  # of which its own copies are not told apart
    )


def _note(shape: Shape, way: Way) -> str:
    if way.is_packed and shape.has_layer:
        return "here with PyTorch's operations, so that packing is a copy as in the others"
    return way.note


def _describe(shape: Shape, ranks: int) -> dict[str, object]:
    return {
        "ranks": ranks,
        "batch": shape.batch,
        "image tokens": shape.img_tokens,
        "text tokens": shape.txt_tokens,
        "heads": shape.heads,
        "head width": shape.head_dim,
    }


def _tell(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--small", action="store_true")
    return parser


if __name__ == "__main__":
    main()
