"""Times contenders side by side and makes one record of each. Knows no model.

The contenders take turns, A, B, A, B, ..., so that a slow spell of the machine hits all of them.
A ratio is taken within each round, against the baseline's sample of that round; the ratio of a
contender is the median over the rounds. Beside the wall clock there is the CPU time of all threads
of this process: on a busy machine it leaves out what other processes took. A GPU is timed by a
timer of its own (`device_timer`), ranks by the slowest (`rank_timer`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

import torch

from ..errors import first_line
from .machine import Machine, load_average
from .record import Record


@dataclass(frozen=True)
class Contender:
    """Way to do the work that is compared: `run` does it once.

    `flops` are counted by `disca_rt.work.flops`, 0 where bytes limit the work; `note` says what is
    special; `goal` is the ratio to stay at or below; `minimum_bytes` must be moved at least;
    `warm_up` replaces `run` before the samples, where that is long. In an exchange between
    processes each sends `sent_bytes`, and copies a whole tensor `passes` times beside that.
    """

    name: str
    run: Callable[[], object]
    flops: int = 0
    note: str = ""
    goal: float | None = None
    minimum_bytes: int = 0
    warm_up: Callable[[], object] | None = None
    sent_bytes: int = 0
    passes: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Benchmark called `name`: contenders that do the same work on one shape, the baseline first.

    `samples` are taken unless the caller asks for another number; `relative_difference` is that of
    the contenders' outputs, where they were compared.
    """

    name: str
    shape: dict[str, Any]
    dtype: str
    contenders: Sequence[Contender]
    samples: int
    relative_difference: float | None = None


class Elapsed(NamedTuple):
    """Seconds that one run took: by the wall clock, and of CPU time of all threads."""

    wall: float
    cpu: float


class Timer(NamedTuple):
    """Clock for one run of a function; each contender first runs `warmup` times untimed."""

    time: Callable[[Callable[[], object]], Elapsed]
    warmup: int = 1


def host_timer(
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Timer:
    """Timer of work that is done when its function returns."""

    def timed(run: Callable[[], object]) -> Elapsed:
        start, cpu_start = clock(), cpu_clock()
        run()
        return Elapsed(clock() - start, cpu_clock() - cpu_start)

    return Timer(timed)


class Interrupted(KeyboardInterrupt):
    """Interruption of a measurement; `records` are those of the rounds that were complete."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__()
        self.records = records


class Spread(NamedTuple):
    """Percentiles of samples."""

    p5: float
    median: float
    p95: float


def measure(
    comparison: Comparison,
    samples: int,
    machine: Machine,
    threads: int,
    timer: Timer | None = None,
    ranks: int = 1,
    weights: str = "",
) -> list[Record]:
    """Records of the contenders, the baseline first; timed by the host's clocks without a `timer`.

    A contender that fails is told and left out; without the baseline there is nothing to compare.
    An interruption is passed on as `Interrupted`.
    """
    load, timer = load_average(), timer or host_timer()
    contenders = warm_up(comparison, timer)
    if comparison.contenders[0] not in contenders:
        return []
    alike = {
        "benchmark": comparison.name,
        "baseline": comparison.contenders[0].name,
        "shape": comparison.shape,
        "dtype": comparison.dtype,
        **asdict(machine),
        "threads": threads,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "otherwise_idle": "unknown",
        "load_average": load,
        "warmup": timer.warmup,
        "relative_difference": comparison.relative_difference,
        "ranks": ranks,
        "weights": weights,
    }
    taken: dict[str, list[Elapsed]] = {each.name: [] for each in contenders}
    try:
        interleave(contenders, samples, timer, taken)
    except KeyboardInterrupt:
        raise Interrupted(_records(contenders, taken, alike)) from None
    return _records(contenders, taken, alike)


def warm_up(comparison: Comparison, timer: Timer) -> list[Contender]:
    """Runs each contender untimed; returns those that run, and says in a line why another does not.

    Another is, say, one whose compiler is not installed.
    """
    running = []
    for each in comparison.contenders:
        try:
            for _ in range(timer.warmup):
                (each.warm_up or each.run)()
        except Exception as error:  # whatever it is, the others are still measured
            what = f"{type(error).__name__}: {first_line(error)}"
            print(f"{comparison.name}: no {each.name} ({what})", flush=True)
        else:
            running.append(each)
    return running


def interleave(
    contenders: Sequence[Contender], samples: int, timer: Timer, taken: dict[str, list[Elapsed]]
) -> None:
    """Times `samples` rounds of one run of each contender, and adds them to `taken` by name."""
    for _ in range(samples):
        for each in contenders:
            taken[each.name].append(timer.time(each.run))


def spread(samples: Sequence[float]) -> Spread:
    """Percentiles of `samples`, on the line between the two nearest."""
    shares = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    return Spread(*torch.quantile(torch.tensor(samples, dtype=torch.float64), shares).tolist())


def spread_of_ratios(samples: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Percentiles of sample i over baseline sample i; ValueError where their numbers differ."""
    return spread([sample / base for sample, base in zip(samples, baseline, strict=True)])


def _records(
    contenders: Sequence[Contender], taken: dict[str, list[Elapsed]], alike: dict[str, Any]
) -> list[Record]:
    """Records of the complete rounds; all have the fields `alike`."""
    rounds = min(map(len, taken.values()))
    base = contenders[0]
    return [
        Record(
            **alike,
            contender=each.name,
            note=each.note,
            samples=rounds,
            **_statistics(taken[each.name][:rounds], taken[base.name][:rounds], each),
            flops=each.flops,
            flop_ratio=each.flops / base.flops if base.flops else None,
            goal=each.goal,
            minimum_bytes=each.minimum_bytes,
            sent_bytes=each.sent_bytes,
            passes=each.passes,
        )
        for each in contenders
        if rounds
    ]


def _statistics(
    taken: Sequence[Elapsed], baseline: Sequence[Elapsed], contender: Contender
) -> dict[str, Any]:
    seconds, cpu_seconds = map(list, zip(*taken, strict=True))
    base_seconds, base_cpu_seconds = zip(*baseline, strict=True)
    wall, cpu = spread(seconds), spread(cpu_seconds)
    ratio = spread_of_ratios(seconds, base_seconds)
    cpu_ratio = spread_of_ratios(cpu_seconds, base_cpu_seconds)
    return {
        "median_s": wall.median,
        "p5_s": wall.p5,
        "p95_s": wall.p95,
        "gflops_per_s": contender.flops / wall.median / 1e9,
        "gb_per_s": contender.minimum_bytes / wall.median / 1e9,
        "ratio": ratio.median,
        "ratio_p5": ratio.p5,
        "ratio_p95": ratio.p95,
        "cpu_median_s": cpu.median,
        "cpu_ratio": cpu_ratio.median,
        "cpu_ratio_p5": cpu_ratio.p5,
        "cpu_ratio_p95": cpu_ratio.p95,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
