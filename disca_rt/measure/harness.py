"""Times contenders side by side and makes one record of each. Knows no model and no torch.

The contenders take turns, A, B, A, B, ..., so that a slow spell of the machine hits all of them.
A ratio is taken within each round, against the baseline's sample of that round; the ratio of a
contender is the median over the rounds. Beside the wall clock there is the CPU time of all threads
of this process: on a busy machine it leaves out what other processes took. A GPU is timed by a
timer of its own (`gpu_timer`), ranks by the slowest (`rank_timer`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

from .machine import Machine, load_average
from .record import Record


@dataclass(frozen=True)
class Contender:
    """`run` does the work once; `flops` of it by `disca_rt.work.flops`, 0 where bytes limit it.

    `note` says what is special; `goal` is the ratio to stay at or below; `minimum_bytes` are those
    that must be moved; `warm_up` stands in for `run` before the samples, where that is long. Of an
    exchange between processes, `sent_bytes` leave one of them, and `passes` are copies of a whole
    tensor beside that.
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
    """Contenders on one shape, the baseline first.

    `samples` unless the caller asks for another number; `relative_difference` of the outputs, where
    they were compared.
    """

    name: str
    shape: dict[str, Any]
    dtype: str
    contenders: Sequence[Contender]
    samples: int
    relative_difference: float | None = None


class Taken(NamedTuple):
    """By one run, in seconds."""

    wall: float
    cpu: float


class Timer(NamedTuple):
    """`time` runs what it is given once; before the samples come `warmup` untimed runs of each."""

    time: Callable[[Callable[[], object]], Taken]
    warmup: int = 1


def host_timer(
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Timer:
    """For work that is done when its function returns."""

    def timed(run: Callable[[], object]) -> Taken:
        start, cpu_start = clock(), cpu_clock()
        run()
        return Taken(clock() - start, cpu_clock() - cpu_start)

    return Timer(timed)


class Interrupted(KeyboardInterrupt):
    """A measurement was; `records` are those of the rounds that were over."""

    def __init__(self, records: list[Record]) -> None:
        super().__init__()
        self.records = records


class Spread(NamedTuple):
    """Percentiles of the samples."""

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
    """One record per contender, the baseline first; by the host's clocks without a `timer`.

    A contender that fails is told and left out; without the baseline there is nothing to compare.
    An interruption is passed on as `Interrupted`.
    """
    load, timer = load_average(), timer or host_timer()
    contenders = warm_up(comparison, timer)
    base = comparison.contenders[0]
    if base not in contenders:
        return []
    taken: dict[str, list[Taken]] = {each.name: [] for each in contenders}

    def records() -> list[Record]:
        rounds = min(map(len, taken.values()))
        return [
            Record(
                benchmark=comparison.name,
                contender=each.name,
                baseline=base.name,
                note=each.note,
                shape=comparison.shape,
                dtype=comparison.dtype,
                **asdict(machine),
                threads=threads,
                time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                otherwise_idle="unknown",
                load_average=load,
                warmup=timer.warmup,
                samples=rounds,
                **_statistics(taken[each.name][:rounds], taken[base.name][:rounds], each),
                flops=each.flops,
                flop_ratio=each.flops / base.flops if base.flops else None,
                goal=each.goal,
                minimum_bytes=each.minimum_bytes,
                sent_bytes=each.sent_bytes,
                passes=each.passes,
                relative_difference=comparison.relative_difference,
                ranks=ranks,
                weights=weights,
            )
            for each in contenders
            if rounds
        ]

    try:
        interleave(contenders, samples, timer, taken)
    except KeyboardInterrupt:
        raise Interrupted(records()) from None
    return records()


def warm_up(comparison: Comparison, timer: Timer) -> list[Contender]:
    """The contenders that run; of another, such as a compiler that is not there, one line."""
    running = []
    for each in comparison.contenders:
        try:
            for _ in range(timer.warmup):
                (each.warm_up or each.run)()
        except Exception as error:  # whatever it is, the others are still measured
            lines = str(error).strip().splitlines() or [""]
            what = f"{type(error).__name__}: {lines[0]}"
            print(f"{comparison.name}: no {each.name} ({what})", flush=True)
        else:
            running.append(each)
    return running


def interleave(
    contenders: Sequence[Contender], samples: int, timer: Timer, taken: dict[str, list[Taken]]
) -> None:
    """Adds samples to those `taken` of each contender, one of each per round."""
    for _ in range(samples):
        for each in contenders:
            taken[each.name].append(timer.time(each.run))


def spread(samples: Sequence[float]) -> Spread:
    return Spread(*(percentile(samples, share) for share in (0.05, 0.5, 0.95)))


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` of the samples are, on the line between two neighbours."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def spread_of_ratios(samples: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Of sample i over baseline sample i."""
    return spread([sample / base for sample, base in zip(samples, baseline, strict=True)])


def _statistics(
    taken: Sequence[Taken], baseline: Sequence[Taken], contender: Contender
) -> dict[str, Any]:
    seconds, cpu_seconds = map(list, zip(*taken, strict=True))
    base_seconds, base_cpu_seconds = zip(*baseline, strict=True)
    wall = spread(seconds)
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
        "cpu_median_s": spread(cpu_seconds).median,
        "cpu_ratio": cpu_ratio.median,
        "cpu_ratio_p5": cpu_ratio.p5,
        "cpu_ratio_p95": cpu_ratio.p95,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
