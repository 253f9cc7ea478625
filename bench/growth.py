"""Benchmark of how cost grows with tokens, steps, batch and ranks: `python -m bench.growth`.

Time, memory and operators of our step or sample and of diffusers' class, fp32, one thread (of each
rank). All sizes of an axis take turns, so that their ratios hold on a busy machine. An axis is
written when it is over, and one that --out has already is not measured again. `python -m
bench.growth_page` makes the page and the picture of the lines.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch

from disca_rt.measure.harness import Comparison, host_timer
from disca_rt.measure.machine import this_machine
from disca_rt.measure.record import Record, read_records, write_records
from disca_rt.measure.session import Session

from .against_diffusers import check_equal
from .growth_record import GROWTH, OURS, SAMPLES, THEIRS, described, finished
from .growth_work import AXES, RANKS, Axis, Watched, models
from .run import RESULTS, positive

ROOT = Path(__file__).parents[1]
QUICK = 3  # sizes of each axis in a trial
RANK_TOKENS = 2048
RANK_COUNTS = (1, 2, 4)


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    torch.set_num_threads(1)
    known = read_records(args.out) if args.out.is_file() else []
    for name in args.only or (*AXES, RANKS):
        if any(record.benchmark == f"{GROWTH}, {name}" for record in known):
            print(f"{name}: already in {args.out}", flush=True)
        elif name == RANKS:
            measure_ranks(args.out, args.samples, args.quick)
        else:
            measure_axis(name, args.out, args.samples, args.quick)
    print(f"wrote {args.out}; python -m bench.growth_page {args.out} shows it")


def measure_axis(name: str, out: Path, samples: int, is_quick: bool = False) -> list[Record]:
    """Records of both contenders at every size of the axis, written to `out`."""
    axis, watched = AXES[name], Watched()
    axis = axis._replace(sizes=axis.sizes[:QUICK]) if is_quick else axis
    say = partial(print, flush=True)
    session = Session(this_machine(), host_timer(), out, say, weights="random", samples=samples)
    session.run(compare(name, axis, watched), lambda record: finished(record, watched.seen))
    return session.records


def compare(name: str, axis: Axis, watched: Watched) -> Comparison:
    """Comparison of ours with diffusers' class at every size, where their outputs agree."""
    contenders, differences = [], []
    for size in axis.sizes:
        amount = axis.amount(size)
        theirs, ours = axis.theirs(models().theirs, amount), axis.ours(models().ours, amount)
        differences.append(check_equal(ours, theirs))
        contenders += [
            watched.contender(THEIRS, size, theirs, amount.flops),
            watched.contender(OURS, size, ours, amount.flops),
        ]
    fields = described(name, axis.amount(axis.sizes[0]))
    return Comparison(**fields, contenders=contenders, relative_difference=max(differences))


def measure_ranks(out: Path, samples: int, is_quick: bool = False) -> list[Record]:
    """Records of a step over several numbers of ranks, written to `out`."""
    counts = RANK_COUNTS[:2] if is_quick else RANK_COUNTS
    tokens = RANK_TOKENS // 8 if is_quick else RANK_TOKENS
    print(f"{GROWTH}, {RANKS}: {samples} samples", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "records.jsonl"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", max(counts)]
        command = [*launch, "-m", "bench.growth_rank", lines, "--ranks", *counts]
        command += ["--tokens", tokens, "--samples", samples]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        words = [sys.executable, *map(str, command)]
        subprocess.run(words, env=environment, cwd=ROOT, check=True)
        records = read_records(lines)
    write_records(out, records)
    return records


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--only", action="append", choices=(*AXES, RANKS), help="only this axis")
    parser.add_argument("--samples", type=positive, default=SAMPLES, help="rounds of all sizes")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest sizes: a trial, not a result"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / f"growth-{date.today():%Y-%m-%d}.jsonl",
        help="lines; default: by date",
    )
    return parser


if __name__ == "__main__":
    main()
