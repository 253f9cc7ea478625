"""`disca-rt bench`: times of steps and samples, against rivals and an earlier run."""

import argparse
import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..measure import BENCHMARKS, CEILINGS, GRAPHS, RIVALS
from .arguments import (
    ATTENTION_HELP,
    OPS_HELP,
    add_fp8_argument,
    add_schedule_arguments,
    check_writable,
)
from .graphs import add_graphs_argument, check_graphs, wants_graphs
from .ranks import add_rank_arguments, check_ranks, joined_ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ..measure.harness import Comparison, Contender
    from ..measure.record import Record
    from ..measure.session import Session
    from ..measure.suite import Suite
    from ..parallel.ranks import Ranks

DEFAULT_OUT = Path("out") / "bench.jsonl"
QUICK_SAMPLES = 2


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


def interrupted(args: argparse.Namespace) -> str:
    return f"what was measured until then is in {args.out}"


def run(args: argparse.Namespace) -> None:
    _check_arguments(args)
    before = _read_baseline(args.baseline)
    with joined_ranks(args) as ranks:
        session = _measure(args, ranks)
        is_first = ranks is None or ranks.is_first
    if is_first:
        _report(args, session.records, before)
    if session.lost:
        raise ValueError(f"did not run, for the reason above: {'; '.join(session.lost)}")


def _check_arguments(args: argparse.Namespace) -> None:
    """Refuses, by ValueError, everything that can be refused before a model is made."""
    from ..attention.local import get_backend
    from ..cache.policies import check_policy
    from ..kernels.ops import get_ops
    from ..measure.workloads import get_workload, latent_shape
    from ..schedule import get_preset
    from .devices import choose_device, choose_dtype

    latent_shape(get_workload(args.workload, args.model))
    device = choose_device(args.device)
    choose_dtype(args.dtype, device)
    if args.ops is not None:
        get_ops(args.ops, device)
    get_backend(args.attention)
    if args.policy is not None:
        check_policy(args.policy)
    if args.preset is not None:
        get_preset(args.preset)
    if args.predictor is not None and args.dit is None:
        raise ValueError("--predictor goes with --dit; without both the weights are random")
    if args.random and args.dit is not None:
        raise ValueError("give either --dit or --random")
    for flag in ("samples", "threads"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise ValueError(f"--{flag} must be at least 1, got {getattr(args, flag)}")
    check_writable("--out", args.out, ".jsonl")
    check_writable("--ladder", _ladder(args), ".png")
    check_ranks(args)
    check_graphs(args)
    if GRAPHS in (args.only or ()) and not wants_graphs(args, device):
        raise ValueError(f"--only {GRAPHS} needs --graphs and a CUDA device; leave it out")
    from ..parallel.ranks import is_launched

    alone = set(RIVALS).intersection(args.only or ())
    if alone and args.fp8_weights:
        raise ValueError(
            f"--only {min(alone)}: rivals keep no FP8 weights; leave --fp8-weights out"
        )
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


def _measure(args: argparse.Namespace, ranks: "Ranks | None") -> "Session":
    from ..measure.ceilings import ceilings
    from ..measure.memory import memory_by_source
    from .bench_subject import load_suite, placement, show_size
    from .out_of_memory import explained

    session = _session(args, ranks)
    device, dtype = placement(args, ranks)
    for each in ceilings(device, dtype, args.quick):
        session.run(each)
    if args.only == [CEILINGS]:
        return session
    suite, session.weights, need = load_suite(args, ranks, session.say)
    if suite.is_long:
        session.timer = session.timer._replace(warmup=1)
    fitting = partial(explained, lambda: need, device, partial(show_size, suite.workload))
    with fitting():
        memory = memory_by_source(suite.subject)
    for benchmark in _chosen(args, session, suite):
        comparison = _explaining(suite.comparison(benchmark), suite.ours, fitting)
        records = session.run(comparison, lambda record: _finished(record, suite, memory))
        ran = {record.contender for record in records}
        names = (each.name for each in comparison.contenders)
        session.lost += [f"{benchmark}: {n}" for n in names if n in suite.ours and n not in ran]
    return session


def _explaining(
    comparison: "Comparison", ours: set[str], fitting: "Callable[[], AbstractContextManager]"
) -> "Comparison":
    """Comparison whose contenders of `ours`, where they do not fit, say what would."""

    def warm_up(contender: "Contender") -> None:
        with fitting():
            (contender.warm_up or contender.run)()

    contenders = [
        replace(each, warm_up=partial(warm_up, each)) if each.name in ours else each
        for each in comparison.contenders
    ]
    return replace(comparison, contenders=contenders)


def _session(args: argparse.Namespace, ranks: "Ranks | None") -> "Session":
    import torch

    from ..measure.harness import host_timer
    from ..measure.machine import this_machine
    from ..measure.session import Session
    from .bench_subject import placement

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device, timer = placement(args, ranks).device, host_timer()
    if device.type == "cuda":
        from ..measure.gpu_timer import device_timer

        torch.cuda.set_device(device.index or 0)
        timer = device_timer(device)
    if ranks is not None:
        from ..measure.rank_timer import slowest

        timer = slowest(timer, ranks.group, device)
    is_first = ranks is None or ranks.is_first
    return Session(
        machine=this_machine(device),
        timer=timer,
        out=args.out if is_first else None,
        say=lambda line: print(line, flush=True) if is_first else None,
        ranks=1 if ranks is None else ranks.size,
        samples=QUICK_SAMPLES if args.quick and args.samples is None else args.samples,
    )


def _chosen(args: argparse.Namespace, session: "Session", suite: "Suite") -> list[str]:
    """Names of the benchmarks to run; says in a line why another is left out."""
    if args.only:
        return [name for name in BENCHMARKS if name in args.only]
    left_out = [] if suite.graphs is not None else [GRAPHS]
    if args.quick or args.fp8_weights or session.ranks > 1:
        left_out += RIVALS
    elif importlib.util.find_spec("cache_dit") is None:
        session.say("sample-rivals: skipped, needs cache-dit: pip install cache-dit")
        left_out.append("sample-rivals")
    return [name for name in BENCHMARKS if name not in left_out]


def _finished(record: "Record", suite: "Suite", memory: dict[str, int]) -> "Record":
    """Record with its stages and, for our own contenders, memory and busy time."""
    from ..measure.busy import busy_share
    from ..measure.session import with_stages

    record = with_stages(record, suite.times)
    if record.contender not in suite.ours:
        return record
    captured = suite.captured.get(record.contender)
    graphs = 0 if captured is None else captured.memory_bytes
    record = replace(record, memory={**memory, "graphs": graphs})
    if not record.stages:
        return record
    share = busy_share(suite.shortly[record.contender], suite.subject.runtime.dit.device)
    return replace(record, busy=share)


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
