"""Session of several benchmarks: measures each, adds what the run knows, writes it at once.

Knows files and the run's ceilings, not what the contenders are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..instruments.stopwatch import StageTime
from .ceilings import MATMUL
from .harness import Comparison, Interrupted, Timer, measure
from .machine import Machine
from .record import Record, write_records

StageTimes = Mapping[str, StageTime]
"""Times of one sample, by stage."""


@dataclass
class Session:
    """Run of `disca-rt bench`; `records` so far, and `lost` contenders of ours that did not run.

    `out` None: nothing is written. `samples` None: as many as each comparison asks for.
    """

    machine: Machine
    timer: Timer
    out: Path | None
    say: Callable[[str], None]
    ranks: int = 1
    weights: str = ""
    samples: int | None = None
    records: list[Record] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def run(
        self, comparison: Comparison, finish: Callable[[Record], Record] = lambda record: record
    ) -> list[Record]:
        """Measures, and keeps what `finish` makes of each record; if interrupted, what there is."""
        count, threads = self.samples or comparison.samples, torch.get_num_threads()
        self.say(f"{comparison.name}: {count} samples")
        about = self.machine, threads, self.timer, self.ranks, self.weights
        try:
            with torch.inference_mode():
                measured = measure(comparison, count, *about)
        except Interrupted as stopped:
            self._keep(stopped.records, lambda record: record)
            raise
        return self._keep(measured, finish)

    def _keep(self, measured: list[Record], finish: Callable[[Record], Record]) -> list[Record]:
        kept = [finish(self._with_mfu(record)) for record in measured]
        self.records += kept
        if kept and self.out is not None:
            write_records(self.out, kept)
        return kept

    def _with_mfu(self, record: Record) -> Record:
        """Record with its share of the rate of this run's matrix product, on each rank."""
        ceiling = next((r for r in self.records if r.benchmark == MATMUL), None)
        if ceiling is None or not record.flops:
            return record
        return replace(record, mfu=record.gflops_per_s / ceiling.gflops_per_s / record.ranks)


def with_stages(record: Record, times: Mapping[str, Sequence[StageTimes]]) -> Record:
    """Record with the seconds of each stage in each of its samples; `times` is by contender."""
    taken = times.get(record.contender, [])[: record.samples]
    stages = {
        stage: [sample[stage].time_s for sample in taken] for stage in (taken[0] if taken else ())
    }
    return replace(record, stages=stages)
