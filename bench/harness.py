"""Times contenders side by side and makes one JSON line of each. Knows no model and no torch.

The contenders take turns, A, B, A, B, ..., so that a slow spell of the machine hits all of them.
A ratio is taken within each round, against the baseline's sample of that round; the ratio of a
contender is the median over the rounds. Beside the wall clock there is the CPU time of all threads
of this process: on a busy machine it leaves out what other processes took.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .machine import Machine, load_average

WARMUP = 1  # untimed runs of each contender


@dataclass(frozen=True)
class Contender:
    """`run` does the work once; `flops` of it by `disca_rt.flops`; `note` says what is special."""

    name: str
    run: Callable[[], object]
    flops: int
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Contenders on one shape, the baseline first.

    `samples` unless the caller asks for another number; `goal`: the ratio that the others are to
    stay at or below; `relative_difference` of the outputs, where they were compared.
    """

    name: str
    shape: dict[str, Any]
    dtype: str
    contenders: Sequence[Contender]
    samples: int
    goal: float | None = None
    relative_difference: float | None = None


class Taken(NamedTuple):
    """By one run, in seconds."""

    wall: float
    cpu: float


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
    flop_ratio: float
    goal: float | None
    relative_difference: float | None
    seconds: list[float]
    cpu_seconds: list[float]

    @property
    def key(self) -> tuple[str, int, str]:
        """What a later run of the same benchmark replaces."""
        return self.benchmark, self.threads, self.device


def measure(comparison: Comparison, samples: int, machine: Machine, threads: int) -> list[Record]:
    """One record per contender, the baseline first."""
    load = load_average()
    taken = interleave(comparison.contenders, samples)
    base = comparison.contenders[0]
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
            warmup=WARMUP,
            samples=samples,
            **_statistics(taken[each.name], taken[base.name], each.flops),
            flops=each.flops,
            flop_ratio=each.flops / base.flops,
            goal=None if each is base else comparison.goal,
            relative_difference=comparison.relative_difference,
        )
        for each in comparison.contenders
    ]


def interleave(
    contenders: Sequence[Contender],
    samples: int,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> dict[str, list[Taken]]:
    """Samples by contender, after the warm-up; one of each per round."""
    for each in contenders:
        for _ in range(WARMUP):
            each.run()
    taken: dict[str, list[Taken]] = {each.name: [] for each in contenders}
    for _ in range(samples):
        for each in contenders:
            start, cpu_start = clock(), cpu_clock()
            each.run()
            taken[each.name].append(Taken(clock() - start, cpu_clock() - cpu_start))
    return taken


def spread(samples: Sequence[float]) -> Spread:
    return Spread(*np.percentile(samples, [5, 50, 95]).tolist())


def spread_of_ratios(samples: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Of sample i over baseline sample i."""
    return spread([sample / base for sample, base in zip(samples, baseline, strict=True)])


def _statistics(taken: Sequence[Taken], baseline: Sequence[Taken], flops: int) -> dict[str, Any]:
    seconds, cpu_seconds = map(list, zip(*taken, strict=True))
    base_seconds, base_cpu_seconds = zip(*baseline, strict=True)
    wall = spread(seconds)
    ratio = spread_of_ratios(seconds, base_seconds)
    cpu_ratio = spread_of_ratios(cpu_seconds, base_cpu_seconds)
    return {
        "median_s": wall.median,
        "p5_s": wall.p5,
        "p95_s": wall.p95,
        "gflops_per_s": flops / wall.median / 1e9,
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
