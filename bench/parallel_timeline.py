"""Check of the simulator against real runs: blocks on gloo ranks, predicted and measured.

`python -m torch.distributed.run --standalone --nproc-per-node 2 -m bench.parallel_timeline`

In turn, round by round: a block of which everything is real; the same block over a group that
exchanges nothing, which gives the seconds of every stage's compute; and exchanges of few bytes and
of as many as the block's, which give the link. The simulator gets the medians of the last two and
says what the first should take. Gloo copies with the cores that compute, so what is hidden costs
compute something: the simulator, made for wires with engines of their own, does not know that.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.testing._internal.distributed import fake_pg  # noqa: F401  # registers "fake"

from disca_rt.measure.harness import spread
from disca_rt.measure.machine import load_average, this_machine
from disca_rt.simulation.block_program import exchange_rows, simulate_block
from disca_rt.simulation.links import Link, Links
from disca_rt.simulation.timeline import COMPUTE

from .marked_block import TIMEOUT, Case, MarkedBlock, to_work

WARMUP = 3  # rounds
FEW_BYTES = 64

MOVED = Case("", "attention", attends=False, img_tokens=32000, txt_tokens=768)
CASES = (
    Case("double-stream block"),
    Case("single-stream block", "single"),
    Case("double-stream block, 4 chunks", chunks=4),
    Case("attention alone", "attention"),
    replace(MOVED, name="tokens moved"),
    replace(MOVED, name="tokens moved, 4 chunks", chunks=4),
    replace(MOVED, name="tokens moved, uneven heads", heads=5, hidden=60),
)
COLUMNS = "compute_s", "wire_s", "predicted_s", "median_s", "p5_s", "p95_s"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.parallel_timeline", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--small", action="store_true", help="a trial: a few tokens")
    parser.add_argument("--out", type=Path, help="append a line of JSON for each case")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # what a group that exchanges nothing leaves in its buffers
    dist.init_process_group("gloo", timeout=TIMEOUT)
    real, none = dist.group.WORLD, dist.new_group(backend="fake")
    for number, case in enumerate(CASES):
        if args.small:
            case = replace(case, img_tokens=61, txt_tokens=7)
        with torch.inference_mode():
            line = compare(case, args.rounds, real, none)
        if dist.get_rank() == 0:
            _tell(line, args.out, is_first=number == 0)
    dist.destroy_process_group()


def compare(case: Case, rounds: int, real: ProcessGroup, none: ProcessGroup) -> dict[str, Any]:
    """Line of results of one case, the same on every rank."""
    partition, ranks = case.partition(real.size()), real.size()
    most = max(
        exchange_rows(partition, r, c) for r in range(ranks) for c in range(partition.chunks)
    )
    counts = FEW_BYTES, most * partition.row_bytes // (ranks - 1)
    steps = [MarkedBlock(case, real).run, MarkedBlock(case, none).run]
    steps += [_probe(real, count) for count in counts]
    taken = [[step() for step in steps] for _ in range(WARMUP + rounds)][WARMUP:]
    runs, computed, few, many = zip(*taken, strict=True)
    mine = to_work(computed, case.chunks), [run.between("start", "end") for run in runs]
    everyone: list[Any] = [None] * ranks
    dist.all_gather_object(everyone, (*mine, median(few), median(many)))
    works, seconds, *probed = zip(*everyone, strict=True)
    link = _link(*map(max, probed), (ranks - 1) * (counts[1] - counts[0]))
    timelines = simulate_block(partition, works, Links(link))
    predicted = max(timeline.seconds for timeline in timelines)
    # All ranks begin a round together; it is over when its last one is.
    measured = spread([max(each) for each in zip(*seconds, strict=True)])
    busiest = max(timelines, key=lambda timeline: timeline.busy(COMPUTE))
    return {
        "benchmark": "parallel timeline",
        "case": asdict(case),
        "ranks": ranks,
        "warmup": WARMUP,
        "samples": rounds,
        **link._asdict(),
        "compute_s": busiest.busy(COMPUTE),
        "wire_s": busiest.busy("in the node"),
        "predicted_s": predicted,
        "median_s": measured.median,
        "p5_s": measured.p5,
        "p95_s": measured.p95,
        "ratio": predicted / measured.median,
    }


def _probe(group: ProcessGroup, count: int) -> Callable[[], float]:
    """Function that times an exchange of `count` bytes with every rank, begun together."""
    sent, received = (torch.zeros(group.size() * count, dtype=torch.uint8) for _ in range(2))

    def run() -> float:
        dist.barrier()
        start = time.perf_counter()
        dist.all_to_all_single(received, sent, group=group)
        return time.perf_counter() - start

    return run


def _link(few: float, many: float, more_bytes: int) -> Link:
    """Link whose latency and bandwidth follow from two exchanges; unlimited if the larger won."""
    seconds = max(many - few, 1e-9)
    return Link(bandwidth_gbs=more_bytes / seconds / 1e9, latency_us=1e6 * few)


def _tell(line: dict[str, Any], out: Path | None, is_first: bool) -> None:
    if is_first:
        names = [*(name.removesuffix("_s") for name in COLUMNS), "ratio"]
        print(f"{'ms':30}", *(f"{name:>9}" for name in names))
    milliseconds = (f"{1e3 * line[name]:9.2f}" for name in COLUMNS)
    print(f"{line['case']['name']:30}", *milliseconds, f"{line['ratio']:9.3f}", flush=True)
    if out is not None:
        machine = {**asdict(this_machine()), "load_average": load_average()}
        with out.open("a") as lines:
            lines.write(json.dumps(line | machine) + "\n")


if __name__ == "__main__":
    main()
