"""A stand-in that gives what was kept with noise of the size of a cache's error (MixCache).

The error of a cache is what its value changed by over the last step; its mean and deviation are
those of this rank's rows (a choice: the paper takes them over steps). The noise of a step is drawn
from a seed of its own, so that a recording is repeated exactly.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..cache.site import Level
from ..cache.stand_in import Kept, Moment, StandInDefaults, TensorSpec

SEED = 20_250_814


@dataclass(frozen=True)
class Noisy(StandInDefaults):
    """The kept value and noise. With `of_change` the cache is of the change of what enters."""

    levels: ClassVar[tuple[Level, ...]] = ("blocks", "guidance", "velocity")
    of_change: bool = False

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        statistics = TensorSpec((2,), torch.float32, like.device)
        return (like, like, statistics)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the error needs the new value beside the old one."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        newest, cached, statistics = kept
        now = value - at.entering if self.of_change else value
        error = (now - cached).float()
        statistics.copy_(torch.stack([error.mean(), error.std()]))
        newest.copy_(value)
        cached.copy_(now)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        newest, _, (mean, deviation) = kept
        generator = torch.Generator().manual_seed(SEED)
        noise = torch.randn(newest.shape, generator=generator).to(newest.device)
        return newest + (mean + deviation * noise).to(newest.dtype)
