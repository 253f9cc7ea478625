"""DisCa's learned predictor, fed a forecast of the last hidden state instead of the kept one."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ...kernels.ops import Ops
from ..site import Level
from ..stand_in import Kept, Moment, TensorSpec
from .half_taylor import HalfTaylor
from .learned import Learned
from .polynomial import Differences, Taylor

FORECASTS = "half-taylor", "taylor"


@dataclass(frozen=True)
class Fed(Learned):
    """`forecast` of order 1 of the tokens is the predictor's cached input.

    "half-taylor" is bounded, "taylor" is not. The predictor was trained on kept tokens.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)
    reads_to_keep: ClassVar[bool] = True
    ops: Ops | None = None
    forecast: Literal["half-taylor", "taylor"] = "half-taylor"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forecast not in FORECASTS:
            raise ValueError(f"forecast must be one of {[*FORECASTS]}, got {self.forecast!r}")

    @property
    def feed(self) -> Differences:
        """The stand-in whose value is the predictor's cached input."""
        return HalfTaylor(self.ops) if self.forecast == "half-taylor" else Taylor(self.ops)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return self.feed.kept_specs(like)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        return self.feed.numbers(kept_at, step, given)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the differences need the new value beside the old ones."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        self.feed.keep(kept, value, at)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.predictor(at.entering, self.feed.value(kept, at), at.context)
