"""No unconditional pass: the guided velocity is the conditional one's."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class Conditional(StandInDefaults):
    """The conditional pass's patches in place of the unconditional ones; keeps nothing."""

    levels: ClassVar[tuple[Level, ...]] = ("guidance",)
    reads_to_keep: ClassVar[bool] = False

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return ()

    def out(self, kept: Kept) -> Tensor | None:
        return None

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        """Nothing to keep."""

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return at.entering
