"""HyCa (arXiv 2510.04188): each channel of a hidden state is forecast by a solver of its own.

All solvers are sums of four tensors: the divided differences d0, d1, d2 of the kept values, and W,
the value of the step before the last kept one, kept or forecast. So a forecast is one sum with
coefficients for each channel. Which solver a channel has is found offline.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ...kernels.ops import Ops
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec
from .foca import forecasts_of

Weights = tuple[float, float, float, float]
"""Coefficients of d0, d1, d2 and W."""

ORDERS = 3  # of differences that are kept: d0, d1, d2


class Distance(NamedTuple):
    """The steps since the last kept value, between the last two, and how many were kept."""

    since: int
    gap: int
    kept: int


def _taylor(order: int) -> Callable[[Distance], Weights]:
    def weights(at: Distance) -> Weights:
        known = (at.since**i / math.factorial(i) for i in range(min(order + 1, at.kept)))
        return (*known, *(0.0,) * (4 - min(order + 1, at.kept)))

    return weights


def _adams_bashforth(at: Distance) -> Weights:
    """v(s) = 2 v(s−1) − v(s−2), from forecast to forecast: a line through W and d0."""
    return (1.0, 0.0, 0.0, 0.0) if at.kept < 2 else (1.0 + at.since, 0.0, 0.0, -float(at.since))


def _bdf_heun(at: Distance) -> Weights:
    """FoCa's, whose sum is of the last value, the one before it and W."""
    if at.kept < 2:
        return 1.0, 0.0, 0.0, 0.0
    forecasts = forecasts_of("paper", at.gap)
    for _ in range(at.since):
        last, before, of_step_before = next(forecasts)
    return last + before, -before * at.gap, 0.0, of_step_before


SOLVERS: dict[str, Callable[[Distance], Weights]] = {
    "reuse": _taylor(0),
    "taylor-1": _taylor(1),
    "taylor-2": _taylor(2),
    "ab-2": _adams_bashforth,
    "bdf2-heun": _bdf_heun,
}
"""The pool of solvers; choice, for no code of the authors is public."""


@dataclass(frozen=True)
class HyCa(StandInDefaults):
    """`solvers` are names of `SOLVERS`, one a channel, or fewer that repeat over the channels.

    A calibration has one for each channel, the same within a cluster of channels that move alike.
    Choice: without one, Taylor of order 1 for all.
    """

    fitted_in: ClassVar[str] = "hyca"
    fitted: ClassVar[tuple[str, ...]] = ("solvers",)
    levels: ClassVar[tuple[Level, ...]] = ("blocks", "branch", "guidance")
    ops: Ops
    solvers: tuple[str, ...] = ("taylor-1",)

    def __post_init__(self) -> None:
        unknown = [each for each in self.solvers if each not in SOLVERS]
        if unknown or not self.solvers:
            shown = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"solvers must be of {[*SOLVERS]}, got {shown}")

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        if like.shape[-1] % len(self.solvers):
            raise ValueError(
                f"solvers must be as many as the {like.shape[-1]} channels, or a divisor of it, "
                f"got {len(self.solvers)}"
            )
        return (like._replace(shape=(ORDERS + 1, *like.shape)),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Distance, factors known, coefficients of the step before and of this one by term."""
        distance = step - kept_at[-1] if kept_at else 1
        known = min(len(kept_at) + 1, ORDERS)
        before, now = (self._weights(kept_at, each) for each in (step - 1, step))
        return (float(distance), float(known), *before, *now)

    def _weights(self, kept_at: tuple[int, ...], step: int) -> list[float]:
        """Coefficients `[4, len(solvers)]`, one row after the other."""
        if not kept_at or step <= kept_at[-1]:
            of_solver = dict.fromkeys(SOLVERS, (1.0, 0.0, 0.0, 0.0))
        else:
            gap = kept_at[-1] - kept_at[-2] if len(kept_at) > 1 else 1
            at = Distance(step - kept_at[-1], gap, len(kept_at))
            of_solver = {name: SOLVERS[name](at) for name in {*self.solvers}}
        return [of_solver[name][term] for term in range(4) for name in self.solvers]

    def out(self, kept: Kept) -> Tensor | None:
        """None: the differences need the new value beside the old ones."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (factors,) = kept
        before = self._sum(factors, at.numbers[2 : 2 + 4 * len(self.solvers)])
        self.ops.finite_differences(factors[:ORDERS], value, at.numbers[:2])
        # The first one takes its place: what an earlier sample left there is not to be read.
        factors[ORDERS].copy_(torch.where(at.numbers[1] > 1, before, value))

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self._sum(kept[0], at.numbers[2 + 4 * len(self.solvers) :])

    def _sum(self, factors: Tensor, coefficients: Tensor) -> Tensor:
        of_channels = coefficients.view(4, -1)
        if len(self.solvers) == 1:
            return self.ops.forecast(factors, of_channels[:, 0])
        repeats = factors.shape[-1] // len(self.solvers)
        return self.ops.forecast_channels(factors, torch.tile(of_channels, (1, repeats)))
