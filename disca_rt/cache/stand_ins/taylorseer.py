"""TaylorSeer's forecast by its authors' options (arXiv 2503.06923), and HiCache's, its kin.

Both are `polynomial.Differences`; here is what differs from the plain ones.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ...kernels.ops import Ops
from ..options import check_int
from .polynomial import MAX_ORDER, Differences, hermite

SPACINGS = "true", "fixed"


@dataclass(frozen=True)
class TaylorSeer(Differences):
    """Derivatives up to `max_order`, formed from step `first_enhance` - 1 on only (authors' code).

    So with `first_enhance` 3 and order 2 the second full step adds no derivative. `spacing` "true"
    divides differences by the steps between two full ones (code), "fixed" by `fresh_threshold`
    always (the paper's N^i, which differs where full steps follow each other).
    """

    ops: Ops
    max_order: int = 1
    first_enhance: int = 1
    fresh_threshold: int = 5
    spacing: Literal["true", "fixed"] = "true"

    def __post_init__(self) -> None:
        check_int("max_order", self.max_order, 0, MAX_ORDER)
        for name in ("first_enhance", "fresh_threshold"):
            check_int(name, getattr(self, name), 1)
        if self.spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {[*SPACINGS]}, got {self.spacing!r}")

    @property
    def orders(self) -> int:
        return self.max_order

    def known(self, kept_at: tuple[int, ...]) -> int:
        before = sum(step < self.first_enhance - 1 for step in kept_at)
        return min(len(kept_at) - max(before - 1, 0), self.max_order + 1)

    def divisor(self, kept_at: tuple[int, ...], step: int) -> float:
        if self.spacing == "fixed":
            return float(self.fresh_threshold)
        return super().divisor(kept_at, step)


@dataclass(frozen=True)
class HiCache(TaylorSeer):
    """TaylorSeer in scaled Hermite polynomials, σ^i·H_i(σ·k) (HiCache, arXiv 2508.16984).

    σ is `hicache_scale_factor`: 0.5 in the authors' code, 0.7 in a launcher of theirs. With
    `analytic_sigma` it is min(1, 1.28/(√2·k)) at distance k instead; choice: their code takes a
    running statistic of the features in place of k.
    """

    hicache_scale_factor: float = 0.5
    analytic_sigma: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.hicache_scale_factor <= 1:
            raise ValueError(
                "hicache_scale_factor must be above 0 and at most 1, got "
                f"{self.hicache_scale_factor}"
            )

    def basis(self, order: int, distance: int) -> float:
        sigma = self.hicache_scale_factor
        if self.analytic_sigma:
            sigma = min(1.0, 1.28 / (math.sqrt(2) * distance))
        return sigma**order * hermite(order, sigma * distance)
