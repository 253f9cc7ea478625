"""HiCache (arXiv 2508.16984) on the final hidden state: TaylorSeer in another basis.

A step k after the last full one takes Σ d_i·σ^i·H_i(σ·k) / i!, with the physicists' Hermite
polynomials H_i and σ below 1, against the growth of k^i.
"""

from numpy.polynomial.hermite import Hermite

from ..kernels.ops import Ops
from .taylor import TaylorPolicy

CONTRACTION = 0.5  # σ


class HermitePolicy(TaylorPolicy):
    """`max_order` derivatives; of order 1 a forecast goes 2σ² as far as Taylor's."""

    name = "hermite"

    def __init__(self, ops: Ops, max_order: int = 1, contraction: float = CONTRACTION) -> None:
        super().__init__(ops, max_order)
        if not 0 < contraction <= 1:
            raise ValueError(f"contraction must be above 0 and at most 1, got {contraction}")
        self.contraction = contraction

    def basis(self, order: int, distance: int) -> float:
        polynomial = Hermite.basis(order)
        return float(self.contraction**order * polynomial(self.contraction * distance))
