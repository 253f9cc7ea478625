"""Benchmarks of this machine, to JSON lines and a table of them: `python -m bench.run`.

A CPU runs models, samples and the host's work for a step; with --device cuda a GPU runs products,
attention (--only rates) and every fused op (--only ops) at the real models' shapes. Absolute times
are this machine's; only the ratios within a benchmark mean something elsewhere.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import torch

from disca_rt.measure.device_timer import device_timer
from disca_rt.measure.diffusers_models import Unavailable
from disca_rt.measure.harness import Comparison
from disca_rt.measure.machine import this_machine
from disca_rt.measure.record import Record, file_stem
from disca_rt.measure.session import Session
from disca_rt.measure.table import markdown

from . import against_diffusers, caches, embedded, host
from .against_diffusers import EMBEDDED, MID_10, MID_15

RESULTS = Path(__file__).parent / "results"

Build = Callable[[], Comparison]

ON_CPU: dict[str, Build] = {
    "predicted-step": embedded.steps,
    "sample-cfg": embedded.samples_with_guidance,
    "sample": embedded.samples_without_guidance,
    "full-step-embedded": partial(against_diffusers.full_step, EMBEDDED),
    "full-step-10": partial(against_diffusers.full_step, MID_10),
    "full-step-15": partial(against_diffusers.full_step, MID_15),
    "host": host.steps,
    "caches-distilled": partial(caches.samples, "distilled"),
    "caches-base": partial(caches.samples, "base"),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.device == "cuda" and not (args.dry_run or torch.cuda.is_available()):
        parser.error("--device cuda: PyTorch sees no GPU; --dry-run tries them on the CPU")
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are defined
    device = torch.device("cpu" if args.dry_run else args.device)
    benchmarks = ON_CPU
    if args.device == "cuda":
        from . import ops, rates

        benchmarks = dict(rates.comparisons(device, args.dry_run))
        benchmarks |= ops.comparisons(device, args.dry_run, args.compile)
    chosen = select(benchmarks, args.only)
    if not chosen:
        parser.error(f"--only {args.only} is in no benchmark; they are {list(benchmarks)}")
    records = []
    for threads in args.threads:
        stem = file_stem(this_machine(device).device)
        dated = None if args.dry_run else RESULTS / f"{stem}-{date.today():%Y-%m-%d}.jsonl"
        out = args.out or dated
        records += run(chosen, 1 if args.dry_run else args.samples, threads, device, out)
    if records:
        print(f"\n{markdown(records)}")


def select(benchmarks: Mapping[str, Build], only: Sequence[str] | None) -> dict[str, Build]:
    """Benchmarks whose name contains one of `only`."""
    return {
        name: build
        for name, build in benchmarks.items()
        if only is None or any(part in name for part in only)
    }


def run(
    benchmarks: Mapping[str, Build],
    samples: int | None,
    threads: int,
    device: torch.device,
    out: Path | None,
) -> list[Record]:
    """Measures one benchmark after another; `samples` None: each benchmark's own number.

    Every benchmark is written to `out` when it is over.
    """
    torch.set_num_threads(threads)
    say = partial(print, flush=True)
    session = Session(this_machine(device), device_timer(device), out, say, samples=samples)
    for name, build in benchmarks.items():
        try:
            comparison = build()
        except Unavailable as error:
            print(f"{name}: skipped, {error}", flush=True)
        else:
            session.run(comparison)
    return session.records


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--only", action="append", metavar="PART", help="benchmarks whose name contains this"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="with --device cuda: every benchmark once, interpreted on the CPU; for --out alone",
    )
    parser.add_argument(
        "--no-compile", action="store_false", dest="compile", help="leave torch.compile out of ops"
    )
    parser.add_argument(
        "--samples", type=positive, help="of each contender; default: the benchmark's own number"
    )
    parser.add_argument(
        "--threads", type=positive, nargs="+", default=[2], help="of PyTorch; several: in turn"
    )
    parser.add_argument(
        "--out", type=Path, help="lines of an earlier run in it are replaced; default: by date"
    )
    return parser


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    main()
