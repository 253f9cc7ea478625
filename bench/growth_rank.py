"""Rank of `bench.growth`, started by torchrun: steps over 1, 2 and more ranks by turns.

Ranks that a step does without wait meanwhile. Its time is the slowest rank's, its CPU time that of
all ranks, its memory the largest rank's; rank 0 writes. diffusers' class has no plan to share a
sample, so it runs on rank 0 alone. Nothing is timed unless all ranks give one rank's latents.
"""

import argparse
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from disca_rt.attention.local import LocalAttention
from disca_rt.measure.diffusers_models import diffusers_model
from disca_rt.measure.harness import Comparison, host_timer, measure
from disca_rt.measure.machine import this_machine
from disca_rt.measure.random_models import random_runtime
from disca_rt.measure.rank_timer import slowest
from disca_rt.measure.record import write_records
from disca_rt.measure.steps import Steps, Subject
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.schedule import preset

from .against_diffusers import TOLERANCE, relative_difference
from .growth_record import described, finished
from .growth_work import (
    CONFIG,
    CPU,
    RANKS,
    SHIFT,
    Amount,
    Observed,
    Run,
    Watched,
    their_step,
)

TIMEOUT = timedelta(seconds=300)


def main() -> None:
    args = _parser().parse_args()
    warnings.filterwarnings("ignore")  # each rank would warn of what contenders call
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    watched = Watched()
    with torch.inference_mode():
        comparison = compare(Amount(args.tokens), args.ranks, watched)
        clock = slowest(host_timer(), dist.group.WORLD, CPU)
        records = measure(comparison, args.samples, this_machine(), 1, clock, weights="random")
    seen = {name: _largest(each) for name, each in watched.seen.items()}
    if dist.get_rank() == 0:
        write_records(args.out, [finished(record, seen) for record in records])
    dist.barrier()
    dist.destroy_process_group()


def compare(amount: Amount, ranks: list[int], watched: Watched) -> Comparison:
    """Comparison of diffusers' class on one rank and of ours on each number of `ranks`."""
    runs = {count: _our_step(amount, count) for count in ranks}
    theirs = _only_first(their_step(diffusers_model(CONFIG), amount))
    contenders = [watched.contender("diffusers", 1, theirs, amount.flops)]
    contenders += [watched.contender("ours", n, run, amount.flops) for n, run in runs.items()]
    worst = _worst_difference([run() for run in runs.values()])
    if not worst <= TOLERANCE:
        raise RuntimeError(f"ranks give something else, by {worst:.1e}: nothing was timed")
    return Comparison(**described(RANKS, amount), contenders=contenders, relative_difference=worst)


def _our_step(amount: Amount, ranks: int) -> Run:
    """Step over the first `ranks` ranks; the others return zeros at once."""
    group = dist.new_group(range(ranks))  # by all ranks alike
    if dist.get_rank() >= ranks:
        return lambda: torch.zeros(1)
    local = LocalAttention("auto")
    attention = local if ranks == 1 else UlyssesAttention(Topology(group, TIMEOUT), local)
    runtime = random_runtime(CONFIG, CPU, torch.float32, "native", attention)
    given = amount.conditioning, amount.latent_shape
    return Steps(Subject(runtime, *given, "full", preset(1, SHIFT))).full


def _worst_difference(latents: list[Tensor]) -> float:
    """Difference of the others from the first, as rank 0, which has all of them, sees it."""
    differences = [relative_difference(each, latents[0]) for each in latents[1:]]
    worst = torch.tensor(max(differences, default=0.0), dtype=torch.float64)
    dist.broadcast(worst, 0)
    return worst.item()


def _only_first(run: Run) -> Run:
    return run if dist.get_rank() == 0 else lambda: torch.zeros(1)


def _largest(observed: Observed) -> Observed:
    """Each count's largest over the ranks."""
    counts = torch.tensor(observed, dtype=torch.int64)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return Observed(*counts.tolist())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--samples", type=int)
    return parser


if __name__ == "__main__":
    main()
