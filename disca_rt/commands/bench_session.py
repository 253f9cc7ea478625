"""Session of `disca-rt bench`: which benchmarks run, by which clock, and what their records add."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from ..measure import BENCHMARKS, CEILINGS, GRAPHS, RIVALS
from ..measure.busy import busy_share
from ..measure.ceilings import ceilings, sustained
from ..measure.device_timer import device_timer
from ..measure.harness import Comparison, Contender
from ..measure.machine import this_machine
from ..measure.memory import memory_by_source
from ..measure.ran_plans import with_plans
from ..measure.record import Record
from ..measure.session import Session, with_stages
from ..measure.suite import Suite
from .bench_subject import load_suite, placement, show_size
from .out_of_memory import explained

if TYPE_CHECKING:
    from ..parallel.ranks import Ranks

QUICK_SAMPLES = 2


def measured(args: argparse.Namespace, ranks: "Ranks | None") -> Session:
    """Session in which everything that `args` asks for was measured."""
    session = _session(args, ranks)
    device, dtype = placement(args, ranks)
    for each in ceilings(device, dtype, args.quick):
        session.run(each)
    if device.type == "cuda" and not args.quick:
        session.run(sustained(device, dtype))
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


def _session(args: argparse.Namespace, ranks: "Ranks | None") -> Session:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = placement(args, ranks).device
    if device.type == "cuda":
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


def _chosen(args: argparse.Namespace, session: Session, suite: Suite) -> list[str]:
    """Names of the benchmarks to run; prints a line for each that is left out, with the reason."""
    if args.only:
        return [name for name in BENCHMARKS if name in args.only]
    left_out = [] if suite.graphs is not None else [GRAPHS]
    if args.quick or args.fp8 or session.ranks > 1:
        left_out += RIVALS
    elif find_spec("cache_dit") is None:
        session.say("sample-rivals: skipped, needs cache-dit: pip install cache-dit")
        left_out.append("sample-rivals")
    return [name for name in BENCHMARKS if name not in left_out]


def _explaining(
    comparison: Comparison, ours: set[str], fitting: Callable[[], AbstractContextManager]
) -> Comparison:
    """Comparison whose contenders of `ours`, where they do not fit, say what would."""

    def warm_up(contender: Contender) -> None:
        with fitting():
            (contender.warm_up or contender.run)()

    contenders = [
        replace(each, warm_up=partial(warm_up, each)) if each.name in ours else each
        for each in comparison.contenders
    ]
    return replace(comparison, contenders=contenders)


def _finished(record: Record, suite: Suite, memory: dict[str, int]) -> Record:
    """Record with its stages and, for our own contenders, memory and busy time."""
    record = with_stages(record, suite.times)
    record = with_plans(record, suite.subject, suite.ran.get(record.contender, ()))
    if record.contender not in suite.ours:
        return record
    captured = suite.captured.get(record.contender)
    graphs = 0 if captured is None else captured.memory_bytes
    record = replace(record, memory={**memory, "graphs": graphs})
    if not record.stages:
        return record
    share = busy_share(suite.shortly[record.contender], suite.subject.runtime.dit.device)
    return replace(record, busy=share)
