"""`disca-rt bench`: times of steps and samples, against rivals and an earlier run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..measure import BENCHMARKS, CEILINGS, GRAPHS, RIVALS
from .arguments import (
    ATTENTION_HELP,
    OPS_HELP,
    add_fp8_argument,
    add_schedule_arguments,
    check_writable,
    given,
)
from .calibrations import add_calibration_argument, check_calibration
from .graphs import add_graphs_argument, check_graphs, wants_graphs
from .ranks import add_rank_arguments, check_ranks, joined_ranks

if TYPE_CHECKING:
    from ..measure.record import Record

DEFAULT_OUT = Path("out") / "bench.jsonl"


def add_parser(subparsers: argparse._SubParsersAction, name: str) -> None:
    parser = subparsers.add_parser(
        name,
        help="measure steps and samples, against rivals and against an earlier run",
        description="Contenders take turns; every ratio is of one round. Without arguments the "
        "embedded model runs on the CPU. The big models run with random weights where no "
        "checkpoint is given, and every line says so.",
    )
    parser.add_argument(
        "workload",
        nargs="?",
        default="embedded",
        help="embedded (default), 704x704x129, 720p, 480p-i2v, or any WIDTHxHEIGHTxFRAMES",
    )
    models = parser.add_argument_group("what runs")
    models.add_argument("--model", help="of a size without a preset (an unknown name lists all)")
    models.add_argument("--dit", help="checkpoint of the DiT, instead of random weights")
    models.add_argument("--predictor", help="checkpoint of its DisCa predictor")
    models.add_argument(
        "--random", action="store_true", help="random weights for the embedded model, too"
    )
    models.add_argument(
        "--cfg",
        action="store_true",
        help="classifier-free guidance: two passes a step, for a model that embeds no guidance",
    )
    models.add_argument("--dtype", help="float32 (default on a CPU), bfloat16 (on a GPU), float16")
    models.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    models.add_argument("--ops", help=OPS_HELP)
    models.add_argument("--attention", default="auto", help=ATTENTION_HELP)
    add_fp8_argument(models)
    add_graphs_argument(models)
    measured = parser.add_argument_group("what is measured")
    measured.add_argument(
        "--only",
        action="append",
        choices=(CEILINGS, *BENCHMARKS),
        help="only this; may be repeated",
    )
    measured.add_argument("--samples", type=int, help="of each contender; default by its length")
    measured.add_argument("--threads", type=int, help="of PyTorch; default all cores")
    measured.add_argument(
        "--quick", action="store_true", help="two samples, no rivals: a trial, not a result"
    )
    outputs = parser.add_argument_group("output")
    outputs.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        help="lines (.jsonl), default out/bench.jsonl; a rerun replaces its own lines in it",
    )
    outputs.add_argument("--ladder", type=Path, help="bars (.png); default: beside --out")
    outputs.add_argument(
        "--baseline",
        type=Path,
        help="lines of an earlier run: fails where one is slower now by more than the noise",
    )
    add_rank_arguments(parser, name)
    add_schedule_arguments(parser)
    add_calibration_argument(parser)


def interrupted(args: argparse.Namespace) -> str:
    return f"what was measured until then is in {args.out}"


def run(args: argparse.Namespace) -> None:
    _check_arguments(args)
    before = _read_baseline(args.baseline)
    from .bench_session import measured

    with joined_ranks(args) as ranks:
        session = measured(args, ranks)
        is_first = ranks is None or ranks.is_first
    if is_first:
        _report(args, session.records, before)
    if session.lost:
        raise ValueError(f"did not run, for the reason above: {'; '.join(session.lost)}")


def _check_arguments(args: argparse.Namespace) -> None:
    """Refuses, by ValueError, everything that can be refused before a model is made."""
    from ..attention.backends import get_backend
    from ..kernels.ops import get_ops
    from ..measure.record import read_records
    from ..measure.workloads import get_workload, latent_shape
    from .devices import choose_device, choose_dtype
    from .schedules import check_schedule_arguments

    latent_shape(get_workload(args.workload, args.model))
    device = choose_device(args.device)
    choose_dtype(args.dtype, device)
    if args.ops is not None:
        get_ops(args.ops, device)
    get_backend(args.attention)
    check_schedule_arguments(args)
    check_calibration(args)
    if args.predictor is not None and args.dit is None:
        raise ValueError("--predictor goes with --dit; without both the weights are random")
    if args.random and args.dit is not None:
        raise ValueError("give either --dit or --random")
    for flag, value in given(args, ("samples", "threads")).items():
        if value < 1:
            raise ValueError(f"--{flag} must be at least 1, got {value}")
    check_writable("--out", args.out, ".jsonl")
    check_writable("--ladder", _ladder(args), ".png")
    if args.out.is_file():
        read_records(args.out)  # lines of others are kept, so they must be lines
    check_ranks(args)
    check_graphs(args)
    if GRAPHS in (args.only or ()) and not wants_graphs(args, device):
        raise ValueError(f"--only {GRAPHS} needs --graphs and a CUDA device; leave it out")
    from ..parallel.ranks import is_launched

    alone = set(RIVALS).intersection(args.only or ())
    if alone and args.fp8:
        flag = "fp8-weights" if args.fp8 == "weights" else "fp8"
        raise ValueError(f"--only {min(alone)}: rivals keep no FP8 weights; leave --{flag} out")
    if alone and is_launched():
        raise ValueError(f"--only {min(alone)} is for one process: rivals do not share a sample")


def _read_baseline(path: Path | None) -> "list[Record]":
    from ..measure.record import read_records

    if path is None:
        return []
    if not path.is_file():
        raise ValueError(f"--baseline {path} is not a file; name one that an earlier run wrote")
    return read_records(path)


def _ladder(args: argparse.Namespace) -> Path:
    return args.ladder or args.out.with_suffix(".png")


def _report(args: argparse.Namespace, records: "list[Record]", before: "list[Record]") -> None:
    """Prints the table, draws the ladder; ValueError where something became slower."""
    from ..measure.compare import compare, missing
    from ..measure.compare import markdown as compared
    from ..measure.ladder import write_ladder
    from ..measure.table import markdown

    print(f"\n{markdown(records)}\nwrote {args.out}")
    try:
        write_ladder(_ladder(args), records)
        print(f"wrote {_ladder(args)}")
    except ValueError as error:  # without matplotlib all else is still there
        print(f"no ladder: {error}")
    if not before:
        return
    changes = compare(records, before)
    print(f"\nAgainst {args.baseline}:\n\n{compared(changes)}")
    for each in missing(records, before):
        print(f"not measured now: {each}")
    slower = [change for change in changes if change.is_slower]
    if slower:
        said = "; ".join(f"{c.benchmark}, {c.contender}: {c.wall.ratio - 1:+.1%}" for c in slower)
        raise ValueError(f"slower than {args.baseline} beyond the noise: {said}")
