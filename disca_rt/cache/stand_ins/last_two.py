"""FasterCache's attention outputs: the last one, and a share of its change since the one before.

Kept are F', the output computed last, and D = F' − F''. In the authors' code F'' is the output
computed before, so that a stand-in is F' + w·D. In diffusers an output that was stood in for counts
as well: m steps after F' the last two differ by wᵐ·D, the stand-in is F' + (w + w² + … + wᵐ)·D, and
the next output computed is compared with that.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ...kernels.ops import Ops
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class LastTwo(StandInDefaults):
    """F' + w·(F' − F'') with `attention_weight` w (FasterCache, arXiv 2410.19355, eq. 7).

    `last_two` are "all" outputs (diffusers) or the "computed" ones (authors). The paper has w rise
    from 0 to 1 over the sample, both programs a constant one; `attention_weight` none is the rise,
    linear in the step (choice), of computed outputs alone.
    """

    takes = "weights"
    levels: ClassVar[tuple[Level, ...]] = ("blocks", "branch", "guidance", "velocity")
    ops: Ops
    attention_weight: float | None = 0.5
    last_two: Literal["all", "computed"] = "all"

    def __post_init__(self) -> None:
        if self.last_two not in ("all", "computed"):
            raise ValueError(f"last_two must be all or computed, got {self.last_two!r}")
        if self.attention_weight is None and self.last_two == "all":
            raise ValueError("attention_weight none goes with last_two=computed, got all")
        if self.attention_weight is not None and not 0 <= self.attention_weight <= 1:
            raise ValueError(
                f"attention_weight must be from 0 to 1, or none, got {self.attention_weight}"
            )

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        """F' and D."""
        return (like._replace(shape=(2, *like.shape)),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The numbers of a difference over one step, then weights: of what is gone, of the value.

        The first of `given` is the weight of the step where `attention_weight` is none.
        """
        gone = step - kept_at[-1] - 1 if kept_at else 0
        known = float(min(len(kept_at) + 1, 2))
        return 1.0, known, 1.0, self._weight(gone, given), 1.0, self._weight(gone + 1, given)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the difference needs the new value beside the old one."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (factors,) = kept
        if self.last_two == "all":
            factors[0].copy_(self.ops.forecast(factors, at.numbers[2:4]))
        self.ops.finite_differences(factors, value, at.numbers[:2])

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.ops.forecast(kept[0], at.numbers[4:])

    def _weight(self, stood_in: int, given: tuple[float, ...]) -> float:
        """The weight of D after so many steps that were stood in for."""
        if self.attention_weight is None:
            return given[0] if given else 1.0
        if self.last_two == "computed":
            return self.attention_weight
        return sum(self.attention_weight**i for i in range(1, stood_in + 1))
