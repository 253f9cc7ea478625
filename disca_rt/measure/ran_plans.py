"""The plans that ran in a benchmark's samples, in words and in its record."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from ..cache.labels import FULL
from ..cache.plan import StepPlan
from .record import Record
from .steps import Subject


def with_plans(record: Record, subject: Subject, ran: Sequence[Sequence[StepPlan]]) -> Record:
    """`record` by the plans that ran in its samples, where these are not known before."""
    if not any(ran):
        return record
    counts = [sum(plan.label == FULL for plan in plans) for plans in ran]
    flops = round(fmean(map(subject.flops_of, ran)))
    share = flops / record.flops
    few, many = min(counts), max(counts)
    return replace(
        record,
        note=f"{few if few == many else f'{few} to {many}'} full steps of {len(ran[0])}, measured",
        flops=flops,
        gflops_per_s=record.gflops_per_s * share,
        flop_ratio=None if record.flop_ratio is None else record.flop_ratio * share,
        mfu=None if record.mfu is None else record.mfu * share,
    )


def schedule_text(subject: Subject) -> str:
    """How many steps a sample has, and how many of them are full."""
    steps = subject.schedule.steps
    if subject.plans is None:
        return f"{steps} steps, full ones as measured"
    return f"{subject.full_steps} full of {steps}"
