"""Fits of how a cost grows with a size n: its exponent, and its parts in n and n². Numbers only."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

FEWEST = 3  # points of a fit


class Parts(NamedTuple):
    """Cost as linear·n + quadratic·n², both at least 0."""

    linear: float
    quadratic: float

    def quadratic_share(self, size: float) -> float:
        """Share of the part with n² in the cost at `size`."""
        return self.quadratic * size / (self.linear + self.quadratic * size)


def larger_half(sizes: Sequence[float]) -> slice:
    """Points of a fit: those of the larger half of the sizes, at least three where there are."""
    return slice(-max(FEWEST, (len(sizes) + 1) // 2), None)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size, by least squares."""
    x, y = (torch.tensor(each, dtype=torch.float64).log() for each in (sizes, costs))
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def two_parts(sizes: Sequence[float], costs: Sequence[float]) -> Parts:
    """Parts with the least squares of relative errors; one that would be negative is 0."""
    n, cost = (torch.tensor(each, dtype=torch.float64) for each in (sizes, costs))
    terms = torch.stack([n, n * n], 1) / cost[:, None]
    ones = torch.ones(len(n), 1, dtype=torch.float64)
    linear, quadratic = torch.linalg.lstsq(terms, ones, driver="gelsd").solution[:, 0].tolist()
    if quadratic < 0:
        return Parts(_alone(terms[:, 0]), 0.0)
    if linear < 0:
        return Parts(0.0, _alone(terms[:, 1]))
    return Parts(linear, quadratic)


def _alone(term: torch.Tensor) -> float:
    return float(term.sum() / (term @ term))
