"""Record of one measured contender as a JSON line, and files of such lines. Knows no clock.

A results file holds the lines of several benchmarks; a later run of the same replaces its lines.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..atomic import write_whole


@dataclass(frozen=True)
class Record:
    """Result of one contender of one comparison: a line of a results file.

    `seconds` (wall) and `cpu_seconds` are the samples in order. Ratios are to the baseline, and 1
    on its own line. `otherwise_idle` is not known to a process; `load_average` hints at it.
    `libraries` are further versions. Models alone have: `weights`, "random" or where they come
    from; `ranks` that shared the work; `mfu`, the share of the matrix-product rate of the same
    run; `memory`, bytes by what they hold; `stages`, seconds of each stage in each sample; `busy`,
    the share of the wall time in which the device worked; `operators`, how many one run dispatches.
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
    weights: str = ""
    ranks: int = 1
    mfu: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    busy: float | None = None
    operators: int = 0

    @property
    def comparison(self) -> tuple[str | int, ...]:
        """Key of the work and the kind of machine: equal for all contenders of one comparison."""
        shape = json.dumps(self.shape, sort_keys=True)
        work = self.benchmark, shape, self.dtype, self.weights
        return *work, self.threads, self.ranks, self.device

    @property
    def identity(self) -> tuple[str | int, ...]:
        """Key of the contender within its comparison: equal lines are results of the same thing."""
        return *self.comparison, self.contender


def read_records(path: Path) -> list[Record]:
    """Records in the file at `path`; ValueError names a line that is none."""
    records = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: line {number} is no result of a benchmark ({error}); name a file that "
                "one has written"
            ) from error
    return records


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Adds `records` to the file at `path`, in place of an earlier run's of the same comparisons.

    All of an earlier run goes, contenders that are not in `records` too: ratios are within a run.
    """
    kept = read_records(path) if path.is_file() else []
    replaced = {record.comparison for record in records}
    lines = [*(r for r in kept if r.comparison not in replaced), *records]
    text = "".join(json.dumps(asdict(line)) + "\n" for line in lines)
    write_whole(path, lambda partial: partial.write_text(text))


def file_stem(device: str) -> str:
    """Start of the name of a device's results file: nvidia-h200 for "GPU: NVIDIA H200", or cpu."""
    kind, _, name = device.partition(": ")
    return "cpu" if kind == "CPU" else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
