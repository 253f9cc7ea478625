"""FoCa (arXiv 2508.16211): a step of BDF2, corrected by one of Heun, from forecast to forecast.

Each forecast is a sum of three tensors: the last kept value F, the one before F', and W, the value
of the step before F's, kept or forecast. So the recursion over skipped steps is one over three
coefficients, on the host, and W is forecast once more when something is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...kernels.ops import Ops
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec, Terms

VARIANTS = "paper", "cache-dit"
HORIZON = 3  # steps beyond which cache-dit dampens
Weights = tuple[float, float, float]
"""Coefficients of F, F' and W."""


@dataclass(frozen=True)
class FoCa(StandInDefaults):
    """`variant` "paper" or "cache-dit" (calibrators/foca.py).

    "paper": P = 4/3 F_k − 1/3 F_{k−1} + 2/3 F'_k, then F_{k+1} = F_k + 1/2 (F'_k + P'), of unit
    steps; choice, for it does not say: the derivatives are F'_k = (F − F') / (steps between the
    two) and P' = P − F_k. "cache-dit": F + e/2 ((F − F') + (F_k − F_{k−1})), e steps after F, of
    undivided differences; beyond 3 steps that of 3, weighted 3/e against F.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks", "branch", "guidance", "velocity")
    ops: Ops
    variant: Literal["paper", "cache-dit"] = "paper"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {[*VARIANTS]}, got {self.variant!r}")

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like._replace(shape=(3, *like.shape)),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Coefficients of the step before, for what is kept at this one, and of this step; and
        whether nothing is kept yet."""
        return *self.weights(kept_at, step - 1), *self.weights(kept_at, step), float(not kept_at)

    def weights(self, kept_at: tuple[int, ...], step: int) -> Weights:
        """Coefficients of the value of `step`, after keeping at `kept_at`."""
        if len(kept_at) < 2 or step <= kept_at[-1]:
            return 1.0, 0.0, 0.0
        forecasts = forecasts_of(self.variant, kept_at[-1] - kept_at[-2])
        for _ in range(step - kept_at[-1]):
            weights = next(forecasts)
        return weights

    def out(self, kept: Kept) -> Tensor | None:
        """None: the value before is needed beside the new one."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (buffers,) = kept
        is_first = at.numbers[6] > 0
        before = self.ops.forecast(buffers, at.numbers[:3])
        # The first one takes all places: what an earlier sample left there is not to be read.
        buffers[1].copy_(torch.where(is_first, value, buffers[0]))
        buffers[0].copy_(value)
        buffers[2].copy_(torch.where(is_first, value, before))

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.ops.forecast(*self.terms(kept, at)[:2])

    def terms(self, kept: Kept, at: Moment) -> Terms:
        return Terms(kept[0], at.numbers[3:6])


def forecasts_of(variant: str, gap: int) -> Iterator[Weights]:
    """Coefficients one step after F, two, and so on; `gap` steps lie between F' and F."""
    full, before = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    newest, steps = full, 0
    while True:
        steps += 1
        if variant == "paper":
            derivative = (1 / gap, -1 / gap, 0.0)
            predicted = _sum((4 / 3, newest), (-1 / 3, before), (2 / 3, derivative))
            next_one = _sum((0.5, newest), (0.5, derivative), (0.5, predicted))
        else:
            reach = min(steps, HORIZON) / 2 * min(1.0, HORIZON / steps)
            change = _sum((reach, newest), (-reach, before))
            next_one = _sum((1.0, full), (1.0, change), (reach, (1.0, -1.0, 0.0)))
        before, newest = newest, next_one
        yield newest


def _sum(*terms: tuple[float, Weights]) -> Weights:
    return tuple(sum(weight * each[i] for weight, each in terms) for i in range(3))
