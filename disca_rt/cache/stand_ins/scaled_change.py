"""ERTACache's stand-in: what enters plus a multiple of the kept change."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class ScaledChange(StandInDefaults):
    """Tokens x that enter, as x + c·r: r the change kept last, c the plan's first scalar, or 1."""

    takes = "scale"
    levels: ClassVar[tuple[Level, ...]] = ("blocks", "guidance", "velocity")
    reads_to_keep: ClassVar[bool] = False

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """c."""
        return given[:1] or (1.0,)

    def out(self, kept: Kept) -> Tensor | None:
        """None: what is kept is a change."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        kept[0].copy_(value - at.entering)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return at.entering + (kept[0] * at.numbers[0]).to(kept[0].dtype)
