"""The noise levels of a sample's steps: pure data. Knows no cache and no model.

Sigmas follow rectified flow from 1 (noise) down to 0 (video), arXiv 2209.03003. Step i goes from
t = 1000·sigma[i] to r = 1000·sigma[i+1], the (t, r) pair of MeanFlow.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch


class Step(NamedTuple):
    """One step: its index, t and r in [0, 1000], and the sigmas that they stand for."""

    index: int
    t: float
    r: float
    sigma: float
    sigma_next: float


@dataclass(frozen=True)
class Schedule:
    """Euler steps between `sigmas`, which fall from at most 1 to 0; checked when built.

    A last 0 that is left out is appended.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        sigmas = tuple(float(sigma) for sigma in self.sigmas)
        if not sigmas or not all(map(math.isfinite, sigmas)):
            raise ValueError(f"sigmas must be at least one finite number, got {list(sigmas)}")
        if sigmas[-1] != 0:
            sigmas += (0.0,)
        if not 0 < sigmas[0] <= 1 or any(later >= sooner for sooner, later in pairwise(sigmas)):
            raise ValueError(f"sigmas must fall from at most 1 to 0, got {list(sigmas)}")
        rounded = torch.tensor(sigmas, dtype=torch.float32).tolist()
        object.__setattr__(self, "sigmas", tuple(rounded))

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.sigmas) - 1

    def __iter__(self) -> Iterator[Step]:
        """The `Step`s in order."""
        return iter(_steps(self.sigmas))


@lru_cache(maxsize=64)
def _steps(sigmas: tuple[float, ...]) -> list[Step]:
    timesteps = (torch.tensor(sigmas, dtype=torch.float32) * 1000).tolist()
    return [
        Step(i, timesteps[i], timesteps[i + 1], sigmas[i], sigmas[i + 1])
        for i in range(len(sigmas) - 1)
    ]


def shifted(steps: int, shift: float) -> Schedule:
    """`steps` equal steps, shifted `s·x/(1+(s−1)·x)` (arXiv 2403.03206)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < shift < float("inf"):
        raise ValueError(f"shift must be a positive number, got {shift}")
    x = torch.linspace(1, 0, steps + 1, dtype=torch.float32)[1:-1]
    inner = shift * x / (1 + (shift - 1) * x)
    return Schedule((1.0, *inner.tolist(), 0.0))


def from_timesteps(timesteps: Sequence[float]) -> Schedule:
    """Steps at `timesteps`, which fall from at most 1000 to 0; a last 0 may be left out."""
    try:
        return Schedule(tuple(t / 1000 for t in timesteps))
    except ValueError as error:
        raise ValueError(
            f"timesteps must fall from at most 1000 to 0, got {list(timesteps)}"
        ) from error


class Preset(NamedTuple):
    """A way of sampling: noise levels, and which of its steps are full where a policy asks.

    `step_list` holds the indices of full steps; None: all are. `shift` made the noise levels.
    `policy` is the one that it was made for, if any.
    """

    schedule: Schedule
    step_list: tuple[int, ...] | None = None
    shift: float | None = None
    policy: str | None = None

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.schedule.steps

    @property
    def full_steps(self) -> int:
        """The number of full steps."""
        return self.steps if self.step_list is None else len(self.step_list)


def preset(steps: int, shift: float, step_list: tuple[int, ...] | None = None) -> Preset:
    """`shifted(steps, shift)`, full at the indices in `step_list`, by default at all."""
    return Preset(shifted(steps, shift), step_list, shift)


PRESETS: dict[str, Preset] = {
    # DisCa (arXiv 2602.05449): the lists of 8 and 10 full steps are the paper's.
    "disca-n4": preset(20, 5.0, (0, 1, 2, 5, 9, 13, 17, 19)),
    "disca-10": preset(20, 5.0, (0, 1, 2, 5, 9, 11, 13, 15, 17, 19)),
    # For N = 3 and 2 it gives only the counts, 11 and 13: these two lists are ours.
    "disca-n3": preset(20, 5.0, (0, 1, 2, 5, 8, 10, 12, 14, 16, 18, 19)),
    "disca-n2": preset(20, 5.0, (0, 1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 18, 19)),
    # HunyuanVideo 1.5, 480p step-distilled.
    "disca-1.5": preset(8, 7.0, (0, 2, 4, 7)),
    # The undistilled baseline: 50 steps, twice each under classifier-free guidance.
    "full-50": preset(50, 7.0),
}


def get_preset(name: str) -> Preset:
    """The preset called `name`; raises ValueError listing the known names."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]
