"""`python -m bench.run`: measure on this machine's CPU, write JSON lines, print the table of them.

Absolute times are this machine's; only the ratios within a benchmark mean something elsewhere.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch

from . import against_diffusers, embedded
from .against_diffusers import EMBEDDED, MID_10, MID_15, Unavailable
from .harness import Comparison, Record, measure, write_records
from .machine import this_machine
from .table import markdown

RESULTS = Path(__file__).parent / "results"

BENCHMARKS: dict[str, Callable[[], Comparison]] = {
    "predicted-step": embedded.steps,
    "sample-cfg": embedded.samples_with_guidance,
    "sample": embedded.samples_without_guidance,
    "full-step-embedded": partial(against_diffusers.full_step, EMBEDDED),
    "full-step-10": partial(against_diffusers.full_step, MID_10),
    "full-step-15": partial(against_diffusers.full_step, MID_15),
}


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    out = args.out or RESULTS / f"cpu-{date.today():%Y-%m-%d}.jsonl"
    records = []
    for threads in args.threads:
        records += run(args.only or BENCHMARKS, args.samples, threads, out)
    if records:
        print(f"\n{markdown(records)}\nwrote {out}")


def run(names: Iterable[str], samples: int | None, threads: int, out: Path) -> list[Record]:
    """Measures and writes one benchmark after another; `samples` None: each benchmark's own."""
    torch.set_num_threads(threads)
    machine = this_machine()
    records = []
    for name in names:
        try:
            comparison = BENCHMARKS[name]()
        except Unavailable as error:
            print(f"{name}: skipped, {error}", flush=True)
            continue
        count = samples or comparison.samples
        print(f"{name}: {count} samples, {threads} threads", flush=True)
        with torch.inference_mode():
            measured = measure(comparison, count, machine, threads)
        write_records(out, measured)
        records += measured
    return records


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument(
        "--samples", type=_positive, help="of each contender; default: the benchmark's own number"
    )
    parser.add_argument(
        "--threads", type=_positive, nargs="+", default=[2], help="of PyTorch; several: in turn"
    )
    parser.add_argument(
        "--out", type=Path, help="lines of an earlier run in it are replaced; default: by date"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    main()
