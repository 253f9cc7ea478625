"""Extrapolation over the step index from divided differences: TaylorSeer, and HiCache by its basis.

Keeping brings the factors up to date: the value F, and its derivatives by differences with the one
kept before, d_i = (d_{i−1} − d_{i−1} before) / (steps between the two). A step k later takes
Σ b_i(k)·d_i / i!, with b_i(k) = k^i in TaylorSeer (arXiv 2503.06923) and σ^i·H_i(σ·k) in HiCache
(arXiv 2508.16984): H_i are the physicists' Hermite polynomials, σ below 1 dampens their growth.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...kernels.ops import Ops
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec, Terms

MAX_ORDER = 3  # of the fused ops


class Differences(StandInDefaults):
    """A base for stand-ins whose value is Σ c_i·d_i, of divided differences of `orders` orders."""

    levels: ClassVar[tuple[Level, ...]] = ("blocks", "branch", "attention", "guidance", "velocity")
    ops: Ops

    @property
    def orders(self) -> int:
        """The highest order of the differences that are kept."""
        raise NotImplementedError

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like._replace(shape=(self.orders + 1, *like.shape)),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Steps since the last kept one, factors known once this one is kept, coefficients."""
        weights = self.weights(kept_at, step)
        unknown = (0.0,) * (self.orders + 1 - len(weights))
        known = self.known((*kept_at, step))
        return (self.divisor(kept_at, step), float(known), *weights, *unknown)

    def weights(self, kept_at: tuple[int, ...], step: int) -> tuple[float, ...]:
        """c_i of the orders that are known after keeping at `kept_at`."""
        distance = step - kept_at[-1] if kept_at else 1  # of the first one nothing is made
        known = self.known(kept_at)
        return tuple(self.basis(i, distance) / math.factorial(i) for i in range(known))

    def known(self, kept_at: tuple[int, ...]) -> int:
        """The number of factors after keeping at the steps `kept_at`."""
        return min(len(kept_at), self.orders + 1)

    def divisor(self, kept_at: tuple[int, ...], step: int) -> float:
        """The divisor of differences between a value kept at `step` and the one before."""
        return float(step - kept_at[-1]) if kept_at else 1.0

    def basis(self, order: int, distance: int) -> float:
        """b_i(k) for `order` i and `distance` k: a derivative's weight, to be divided by i!."""
        return float(distance**order)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the differences need the new value beside the old ones."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        self.ops.finite_differences(kept[0], value, at.numbers[:2])

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.ops.forecast(*self.terms(kept, at)[:2])

    def terms(self, kept: Kept, at: Moment) -> Terms:
        return Terms(kept[0], at.numbers[2:])


@dataclass(frozen=True)
class Taylor(Differences):
    """`order` derivatives; fewer until as many more values have been kept."""

    ops: Ops
    order: int = 1

    def __post_init__(self) -> None:
        check_int("order", self.order, 0, MAX_ORDER)

    @property
    def orders(self) -> int:
        return self.order


@dataclass(frozen=True)
class Hermite(Taylor):
    """`contraction` is σ; of order 1 a forecast goes 2σ² as far as Taylor's."""

    contraction: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.contraction <= 1:
            raise ValueError(f"contraction must be above 0 and at most 1, got {self.contraction}")

    def basis(self, order: int, distance: int) -> float:
        return self.contraction**order * hermite(order, self.contraction * distance)


def hermite(order: int, x: float) -> float:
    """H_i(x) of the physicists, by its recurrence, H_{i+1} = 2x·H_i − 2i·H_{i−1}."""
    before, value = 0.0, 1.0
    for i in range(order):
        before, value = value, 2 * x * value - 2 * i * before
    return value
