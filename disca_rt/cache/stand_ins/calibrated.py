"""DBCache's stand-in (cache-dit 1.5.3): what enters plus a change, kept or forecast from kept ones.

Its calibrators are cache-dit's own variants of TaylorSeer (derivatives of values from step 3 on
alone) and of FoCa (`stand_ins/foca.py`); they forecast the change of all rows.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from torch import Tensor

from ...kernels.ops import Ops
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, StandIn, StandInDefaults, TensorSpec
from .foca import FoCa
from .polynomial import MAX_ORDER
from .reuse import Reuse
from .taylorseer import TaylorSeer


@dataclass(frozen=True)
class Calibrated(StandInDefaults):
    """`calibrator` "taylorseer", of order `taylorseer_order` (1 where none is given), or "foca".

    Without both the change is the last one that was computed.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks", "guidance", "velocity")
    ops: Ops
    calibrator: Literal["taylorseer", "foca"] | None = None
    taylorseer_order: int | None = None

    def __post_init__(self) -> None:
        if self.calibrator not in (None, "taylorseer", "foca"):
            raise ValueError(
                f"calibrator must be taylorseer, foca or none, got {self.calibrator!r}"
            )
        if self.taylorseer_order is not None:
            check_int("taylorseer_order", self.taylorseer_order, 0, MAX_ORDER)
            if self.calibrator == "foca":
                raise ValueError("taylorseer_order is of calibrator taylorseer, got foca; drop one")

    @cached_property
    def change(self) -> StandIn:
        """The stand-in of the change."""
        if self.calibrator == "foca":
            return FoCa(self.ops, "cache-dit")
        if self.calibrator is None and self.taylorseer_order is None:
            return Reuse()
        order = 1 if self.taylorseer_order is None else self.taylorseer_order
        return TaylorSeer(self.ops, order, first_enhance=4)

    @property
    def reads_to_keep(self) -> bool:
        return self.change.reads_to_keep

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return self.change.kept_specs(like)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        return self.change.numbers(kept_at, step, given)

    def out(self, kept: Kept) -> Tensor | None:
        """None: what is kept is not the value."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        self.change.keep(kept, value - at.entering, at)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return at.entering + self.change.value(kept, at)
