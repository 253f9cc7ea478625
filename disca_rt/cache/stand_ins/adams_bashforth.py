"""AB-Cache's stand-in: the outputs of the last steps, combined as an Adams-Bashforth step would.

Equal order-k Adams-Bashforth steps make the value at step s of the last k: v₁ of k = 1, 2v₁ − v₂
of 2, 3v₁ − 3v₂ + v₃ of 3 (arXiv 2504.10540, reconstructed: no public code, and no form of its
scale for flow matching). Keeping brings the window of the last k values up to date.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.ops import Ops
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec

WEIGHTS = {1: (1.0,), 2: (2.0, -1.0), 3: (3.0, -3.0, 1.0)}

Row = tuple[float, ...]
"""Weights of the values in the window, the newest first."""


@dataclass(frozen=True)
class AdamsBashforth(StandInDefaults):
    """The last `k` values, fewer until as many are known.

    These are of the last k steps that were kept, at their true distances (Lagrange's polynomial
    through them), or with `recursive` of the last k steps, values that were predicted among them.
    Both are choices; on unit distances they are the same. Recursion multiplies the error of the
    newest prediction by about the number of predicted steps between two kept ones.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks", "branch", "guidance", "velocity")
    ops: Ops
    k: int = 2
    recursive: bool = False

    def __post_init__(self) -> None:
        check_int("k", self.k, 1, len(WEIGHTS))

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like._replace(shape=(self.k, *like.shape)),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The weights of this step's value, then of the window's values after the newest if this
        step is kept; and whether nothing is kept yet."""
        if not kept_at:
            first = (1.0, *(0.0,) * (self.k - 1))
            return (*first * self.k, 1.0)
        rows = self._recursive(kept_at, step) if self.recursive else self._spaced(kept_at, step)
        return (*(weight for row in rows[: self.k] for weight in row), 0.0)

    def _recursive(self, kept_at: tuple[int, ...], step: int) -> list[Row]:
        """Rows of steps `step`, step − 1, ..., of a window that ends with the last kept step."""
        last = kept_at[-1]
        rows = [_unit(i, self.k) for i in range(self.k)]  # steps last, last - 1, ...
        for each in range(last + 1, step + 1):
            weights = WEIGHTS[min(self.k, each - kept_at[0])]
            rows.insert(0, _combined(weights, rows))
        return rows

    def _spaced(self, kept_at: tuple[int, ...], step: int) -> list[Row]:
        """The row of step `step`, and those of the last kept steps."""
        nodes = kept_at[: -self.k - 1 : -1]
        row = tuple(_lagrange(nodes, i, step) for i in range(len(nodes)))
        padded = row + (0.0,) * (self.k - len(row))
        return [padded, *(_unit(i, self.k) for i in range(self.k))]

    def out(self, kept: Kept) -> Tensor | None:
        """None: the window's other values are made of the old ones."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (window,) = kept
        weights, is_first = at.numbers[:-1].view(self.k, self.k), at.numbers[-1] > 0
        older = [self.ops.forecast(window, weights[i]) for i in range(1, self.k)]
        window[0].copy_(value)
        for place, each in zip(window[1:], older, strict=True):
            # The first one takes all places: what an earlier sample left there is not to be read.
            place.copy_(torch.where(is_first, value, each))

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.ops.forecast(kept[0], at.numbers[: self.k])


def _unit(index: int, length: int) -> Row:
    return tuple(float(i == index) for i in range(length))


def _combined(weights: Row, rows: list[Row]) -> Row:
    return tuple(
        sum(weight * row[i] for weight, row in zip(weights, rows, strict=False))
        for i in range(len(rows[0]))
    )


def _lagrange(nodes: tuple[int, ...], index: int, at: int) -> float:
    """The weight of the value at `nodes[index]` in the polynomial through all, at `at`."""
    weight = 1.0
    for i, node in enumerate(nodes):
        if i != index:
            weight *= (at - node) / (nodes[index] - node)
    return weight
