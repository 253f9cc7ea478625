"""When a sample is at which noise level, and which of its steps are full: pure data.

Sigmas follow rectified flow, 1 (noise) to 0 (video), shifted `s·x/(1+(s−1)·x)` (arXiv 2403.03206).
Step i goes from t = 1000·sigma[i] to r = 1000·sigma[i+1], the (t, r) pair of MeanFlow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch


class Step(NamedTuple):
    """One step: t and r in [0, 1000], the sigmas they stand for, and whether all blocks run."""

    index: int
    t: float
    r: float
    sigma: float
    sigma_next: float
    is_full: bool


@dataclass(frozen=True)
class Schedule:
    """`steps` Euler steps, full at the indices in `step_list`; checked when built."""

    steps: int
    shift: float
    step_list: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.shift < float("inf"):
            raise ValueError(f"shift must be a positive number, got {self.shift}")
        _check_step_list(self.step_list, self.steps)

    @property
    def sigmas(self) -> list[float]:
        """`steps + 1` values from 1 to 0, exact in fp32."""
        x = torch.linspace(1, 0, self.steps + 1, dtype=torch.float32)
        inner = self.shift * x[1:-1] / (1 + (self.shift - 1) * x[1:-1])
        return [1.0, *inner.tolist(), 0.0]

    def __iter__(self) -> Iterator[Step]:
        """The `Step`s in order."""
        sigmas = self.sigmas
        timesteps = (torch.tensor(sigmas, dtype=torch.float32) * 1000).tolist()
        full = set(self.step_list)
        for i in range(self.steps):
            yield Step(i, timesteps[i], timesteps[i + 1], sigmas[i], sigmas[i + 1], i in full)

    @property
    def full_steps(self) -> int:
        return len(self.step_list)


def _check_step_list(step_list: Sequence[int], steps: int) -> None:
    shown = list(step_list)
    if not shown or shown[0] != 0:
        raise ValueError(f"step_list must begin with 0 (nothing is cached before), got {shown}")
    if any(later <= earlier for earlier, later in pairwise(shown)):
        raise ValueError(f"step_list must increase without repeats, got {shown}")
    if shown[-1] >= steps:
        raise ValueError(
            f"step_list must stay below steps: with {steps} steps the last index is {steps - 1}, "
            f"got {shown[-1]}"
        )


def full_schedule(steps: int, shift: float) -> Schedule:
    """Every step full."""
    return Schedule(steps, shift, tuple(range(steps)))


PRESETS: dict[str, Schedule] = {
    # DisCa (arXiv 2602.05449): the lists of 8 and 10 full steps are the paper's.
    "disca-n4": Schedule(20, 5.0, (0, 1, 2, 5, 9, 13, 17, 19)),
    "disca-10": Schedule(20, 5.0, (0, 1, 2, 5, 9, 11, 13, 15, 17, 19)),
    # For N = 3 and 2 it gives only the counts, 11 and 13: these two lists are ours.
    "disca-n3": Schedule(20, 5.0, (0, 1, 2, 5, 8, 10, 12, 14, 16, 18, 19)),
    "disca-n2": Schedule(20, 5.0, (0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 18, 19)),
    # HunyuanVideo 1.5, 480p step-distilled.
    "disca-1.5": Schedule(8, 7.0, (0, 2, 4, 7)),
    # The undistilled baseline: 50 steps, twice each under classifier-free guidance.
    "full-50": full_schedule(50, 7.0),
}


def get_preset(name: str) -> Schedule:
    """The row called `name`; raises ValueError listing the known names."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]
