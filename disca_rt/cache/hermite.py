"""HiCache (arXiv 2508.16984) on the final hidden state: TaylorSeer in another basis.

A step k after the last full one takes Σ d_i·σ^i·H_i(σ·k) / i!, with the physicists' Hermite
polynomials H_i and σ below 1, against the growth of k^i.
"""

from dataclasses import dataclass
from typing import ClassVar

from .taylor import TaylorPolicy

CONTRACTION = 0.5  # σ


@dataclass(frozen=True)
class HermitePolicy(TaylorPolicy):
    """`max_order` derivatives; of order 1 a forecast goes 2σ² as far as Taylor's."""

    name: ClassVar[str] = "hermite"
    contraction: float = CONTRACTION

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.contraction <= 1:
            raise ValueError(f"contraction must be above 0 and at most 1, got {self.contraction}")

    def basis(self, order: int, distance: int) -> float:
        return self.contraction**order * _hermite(order, self.contraction * distance)


def _hermite(order: int, x: float) -> float:
    """H_i(x) by its recurrence, H_{i+1} = 2x·H_i − 2i·H_{i−1}."""
    before, value = 0.0, 1.0
    for i in range(order):
        before, value = value, 2 * x * value - 2 * i * before
    return value
