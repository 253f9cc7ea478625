"""TaylorSeer whose derivatives are formed from a step on: before that each value begins anew."""

import math
from dataclasses import dataclass

from .polynomial import Taylor


@dataclass(frozen=True)
class LateTaylor(Taylor):
    """Of a value kept before step `first` no difference with an earlier one is taken."""

    first: int = 0

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """As `Taylor.numbers`: distance, factors once this one is kept, coefficients."""
        known, distance = self._factors(kept_at), step - kept_at[-1] if kept_at else 1
        coefficients = (
            self.basis(i, distance) / math.factorial(i) if i < known else 0.0
            for i in range(self.order + 1)
        )
        return float(distance), float(self._factors((*kept_at, step))), *coefficients

    def _factors(self, kept_at: tuple[int, ...]) -> int:
        """The factors that are known after values at these steps."""
        late = sum(step >= self.first for step in kept_at[1:])
        return min(1 + late, self.order + 1) if kept_at else 0
