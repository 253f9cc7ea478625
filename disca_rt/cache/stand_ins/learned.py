"""DisCa's learned predictor (arXiv 2602.05449): it continues from the tokens of the last full step.

One tensor of S·C is all that it keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...config import PredictorConfig
from ...tokens import StepContext
from ..site import Level
from ..stand_in import Kept, KeptAsIs, Moment, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class Learned(KeptAsIs, StandInDefaults):
    """`predictor` is called as `(entering, kept, context)` and returns tokens `[B, S, C]`."""

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)
    reads_to_keep: ClassVar[bool] = False
    predictor: Callable[[Tensor, Tensor, StepContext], Tensor]

    def __post_init__(self) -> None:
        if self.predictor is None:
            raise ValueError("policy 'disca' needs a predictor; give one, or choose policy 'full'")

    @property
    def network(self) -> PredictorConfig:
        return self.predictor.config

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.predictor(at.entering, kept[0], at.context)
