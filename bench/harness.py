"""Times contenders side by side and makes one JSON line of each. Knows no model and no torch.

The contenders take turns, A, B, A, B, ..., so that a slow spell of the machine hits all of them.
A ratio is taken within each round, against the baseline's sample of that round; the ratio of a
contender is the median over the rounds. Beside the wall clock there is the CPU time of all threads
of this process: on a busy machine it leaves out what other processes took. A GPU is timed by a
timer of its own (`bench.device`).
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .machine import Machine, load_average


@dataclass(frozen=True)
class Contender:
    """`run` does the work once; `flops` of it by `disca_rt.flops`, 0 where bytes limit it.

    `note` says what is special; `goal` is the ratio to stay at or below; `minimum_bytes` are those
    that must be moved. Of an exchange between processes, `sent_bytes` leave one of them, and
    `passes` are copies of a whole tensor beside that.
    """

    name: str
    run: Callable[[], object]
    flops: int = 0
    note: str = ""
    goal: float | None = None
    minimum_bytes: int = 0
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


class Spread(NamedTuple):
    """Percentiles of the samples."""

    p5: float
    median: float
    p95: float


@dataclass(frozen=True)
class Record:
    """One contender of one comparison: a line of a results file.

    `seconds` (wall) and `cpu_seconds` are the samples in order. Ratios are to the baseline, and 1
    on its own line. `otherwise_idle` is not known to a process; `load_average` hints at it.
    `libraries` are further versions.
    """

    benchmark: str
    contender: str
    baseline: str
    note: str
    shape: dict[str, Any]
    dtype: str
    device: str
    cpus: int
    omp_wait_policy: str
    threads: int
    python: str
    torch: str
    diffusers: str | None
    disca_rt: str
    time: str
    otherwise_idle: str
    load_average: float | None
    warmup: int
    samples: int
    median_s: float
    p5_s: float
    p95_s: float
    flops: int
    gflops_per_s: float
    ratio: float
    ratio_p5: float
    ratio_p95: float
    cpu_median_s: float
    cpu_ratio: float
    cpu_ratio_p5: float
    cpu_ratio_p95: float
    flop_ratio: float | None
    goal: float | None
    relative_difference: float | None
    seconds: list[float]
    cpu_seconds: list[float]
    minimum_bytes: int = 0
    gb_per_s: float = 0.0
    libraries: dict[str, str] = field(default_factory=dict)
    sent_bytes: int = 0
    passes: float = 0.0

    @property
    def key(self) -> tuple[str, int, str]:
        """What a later run of the same benchmark replaces."""
        return self.benchmark, self.threads, self.device


def measure(
    comparison: Comparison,
    samples: int,
    machine: Machine,
    threads: int,
    timer: Timer | None = None,
) -> list[Record]:
    """One record per contender, the baseline first; by the host's clocks without a `timer`.

    A contender that fails is told and left out; without the baseline there is nothing to compare.
    """
    load, timer = load_average(), timer or host_timer()
    contenders = warm_up(comparison, timer)
    base = comparison.contenders[0]
    if base not in contenders:
        return []
    taken = interleave(contenders, samples, timer)
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
            samples=samples,
            **_statistics(taken[each.name], taken[base.name], each),
            flops=each.flops,
            flop_ratio=each.flops / base.flops if base.flops else None,
            goal=each.goal,
            minimum_bytes=each.minimum_bytes,
            sent_bytes=each.sent_bytes,
            passes=each.passes,
            relative_difference=comparison.relative_difference,
        )
        for each in contenders
    ]


def warm_up(comparison: Comparison, timer: Timer) -> list[Contender]:
    """The contenders that run; of another, such as a compiler that is not there, one line."""
    running = []
    for each in comparison.contenders:
        try:
            for _ in range(timer.warmup):
                each.run()
        except Exception as error:  # whatever it is, the others are still measured
            lines = str(error).strip().splitlines() or [""]
            what = f"{type(error).__name__}: {lines[0]}"
            print(f"{comparison.name}: no {each.name} ({what})", flush=True)
        else:
            running.append(each)
    return running


def interleave(
    contenders: Sequence[Contender], samples: int, timer: Timer
) -> dict[str, list[Taken]]:
    """Samples by contender, one of each per round."""
    taken: dict[str, list[Taken]] = {each.name: [] for each in contenders}
    for _ in range(samples):
        for each in contenders:
            taken[each.name].append(timer.time(each.run))
    return taken


def spread(samples: Sequence[float]) -> Spread:
    return Spread(*np.percentile(samples, [5, 50, 95]).tolist())


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


def to_line(record: Record) -> str:
    return json.dumps(asdict(record))


def from_line(line: str) -> Record:
    return Record(**json.loads(line))


def read_records(path: Path) -> list[Record]:
    return [from_line(line) for line in path.read_text().splitlines()]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Adds `records` to the file at `path`; lines of an earlier run with the same keys go."""
    kept = read_records(path) if path.is_file() else []
    replaced = {record.key for record in records}
    lines = map(to_line, [*(r for r in kept if r.key not in replaced), *records])
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, lines)


def _replace(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".partial")  # so that an interruption leaves the old file
    partial.write_text("".join(line + "\n" for line in lines))
    os.replace(partial, path)
