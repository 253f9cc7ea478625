"""The work of a judging or a search, before it begins: samples, and the full steps they cost."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .record import Record
from .subject import UNCACHED, Subject


class Forecast(NamedTuple):
    """Samples that are left, and the full steps that cost as many FLOPs.

    Where plans depend on what will be measured, every step counts as a full one: `is_most`.
    """

    samples: int
    full_steps: float
    is_most: bool

    def __str__(self) -> str:
        most = "at most " * self.is_most
        return f"{self.samples} samples, as much work as {most}{self.full_steps:.0f} full steps"


def forecast(subject: Subject, record: Record, policies: Sequence[str]) -> Forecast:
    """What is left of a judging of `policies`."""
    left = [
        (each, len(subject.prompts) - len(record.of("clip", subject.name, each)))
        for each in (UNCACHED, *policies)
    ]
    return total(subject, ((policy, samples) for policy, samples in left if samples))


def total(subject: Subject, runs: Iterable[tuple[str, int]]) -> Forecast:
    """The work of policies, each with its number of samples."""
    samples, steps, is_most = 0, 0.0, False
    for policy, count in runs:
        plans = subject.known_plans(policy)
        is_most = is_most or plans is None
        of_one = subject.steps
        if plans is not None:
            of_one = subject.flops(policy, plans, 0) / subject.step_flops(0)
        samples, steps = samples + count, steps + count * of_one
    return Forecast(samples, steps, is_most)
