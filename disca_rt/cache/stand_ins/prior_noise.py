"""Faster Diffusion's prior noise: late steps add a little of the noise that the sample began with.

x_(s+1) = x_s + v·dt + c·x_T, which is the velocity v + (c/dt)·x_T (arXiv 2312.09608).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..site import Level
from ..stand_in import Kept, Moment, Place, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class PriorNoise(StandInDefaults):
    """Keeps the latents before the step that keeps, the first one: x_T.

    Refreshed it is the computed velocity with x_T added as often as the plan's scalar says, c/dt;
    none without one. It stands in for nothing.
    """

    takes = "noise"
    levels: ClassVar[tuple[Level, ...]] = ("velocity",)
    refreshes: ClassVar[bool] = True
    reads_to_keep: ClassVar[bool] = False

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        return given[:1] or (0.0,)

    def row_count(self, place: Place, rows: int) -> int:
        return rows

    def out(self, kept: Kept) -> Tensor | None:
        """None: the latents are kept, not the velocity."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        kept[0].copy_(at.entering)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        raise AssertionError("prior noise stands in for nothing: its rule never asks for it")

    def refresh(self, kept: Kept, compute: Callable[[], Tensor], at: Moment) -> Tensor:
        return compute() + at.numbers[0] * kept[0]
