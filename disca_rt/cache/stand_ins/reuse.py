"""Reuse: the value kept last, as it is or as a change of what enters."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec, Terms


@dataclass(frozen=True)
class Reuse(StandInDefaults):
    """The kept value again (`form` "output"), or what enters plus the kept change ("delta").

    "delta" is not for branches and attention: nothing enters that a value could be a change of.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks", "branch", "attention", "guidance", "velocity")
    reads_to_keep: ClassVar[bool] = False
    form: Literal["output", "delta"] = "output"

    def __post_init__(self) -> None:
        if self.form not in ("output", "delta"):
            raise ValueError(f"form must be output or delta, got {self.form!r}")
        if self.form == "delta":
            object.__setattr__(self, "levels", ("blocks", "guidance", "velocity"))

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def out(self, kept: Kept) -> Tensor | None:
        return kept[0] if self.form == "output" else None

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (buffer,) = kept
        if self.form == "delta":
            buffer.copy_(value - at.entering)
        elif value is not buffer:
            buffer.copy_(value)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0] if self.form == "output" else at.entering + kept[0]

    def terms(self, kept: Kept, at: Moment) -> Terms:
        return Terms(kept[0][None]) if self.form == "output" else super().terms(kept, at)


@dataclass(frozen=True)
class Change(Reuse):
    """`Reuse` in the form "delta", unless told otherwise."""

    form: Literal["output", "delta"] = "delta"


@dataclass(frozen=True)
class OnlyChange(Reuse):
    """`Reuse` in the form "delta", where `form` is an option of the method's other slots."""

    form: Literal["output", "delta"] = field(default="delta", init=False)


@dataclass(frozen=True)
class OnlyOutput(Reuse):
    """`Reuse` in the form "output", at branches and attention, which nothing enters."""

    form: Literal["output", "delta"] = field(default="output", init=False)
