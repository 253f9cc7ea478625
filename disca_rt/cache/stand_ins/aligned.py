"""DiCache's stand-in: between and beyond the residuals of the last two full steps."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...kernels.ops import Ops
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class Aligned(StandInDefaults):
    """The sum of what enters and r'' + γ·(r' − r''), r' and r'' the last two kept changes.

    γ is the first scalar of the plan ("dynamic cache trajectory alignment" of DiCache, arXiv
    2508.17356), 1 where a rule gives none; r' alone until there were two.
    """

    takes = "gamma"
    levels: ClassVar[tuple[Level, ...]] = ("blocks", "guidance", "velocity")
    ops: Ops

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like._replace(shape=(2, *like.shape)),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The weights of r' and of r'', and whether nothing is kept yet."""
        gamma = given[0] if given and len(kept_at) > 1 else 1.0
        return gamma, 1.0 - gamma, float(not kept_at)

    def out(self, kept: Kept) -> Tensor | None:
        """None: what is kept is a change."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (changes,), change = kept, value - at.entering
        # The first one takes both places: what an earlier sample left there is not to be read.
        changes[1].copy_(torch.where(at.numbers[2] > 0, change, changes[0]))
        changes[0].copy_(change)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return at.entering + self.ops.forecast(kept[0], at.numbers[:2])
