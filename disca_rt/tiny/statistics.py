"""Confidence intervals by the bootstrap (Efron 1979): how far a mean over prompts can be trusted.

The same resamples of prompts serve every row, so that differences are paired.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 4_000
SEED = 0
LEVEL = 0.95


class ConfidenceInterval(NamedTuple):
    """A mean, and the ends of its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> ConfidenceInterval:
    """Estimate the mean of `values`, one per prompt."""
    tensor = torch.tensor(values, dtype=torch.float64)
    outside = (1 - LEVEL) / 2
    ends = torch.tensor([outside, 1 - outside], dtype=torch.float64)
    low, high = torch.quantile(_resampled_means(tensor), ends).tolist()
    return ConfidenceInterval(tensor.mean().item(), low, high)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> ConfidenceInterval:
    """Estimate the mean of ours − theirs over the same prompts, in the same order."""
    if len(ours) != len(theirs):
        raise ValueError(f"pairs must be of the same prompts, got {len(ours)} and {len(theirs)}")
    return mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])


def _resampled_means(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    return values[drawn].mean(dim=1)
