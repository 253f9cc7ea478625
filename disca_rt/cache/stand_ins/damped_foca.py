"""FoCa as cache-dit 1.5.3 has it (`calibrators/foca.py`), after arXiv 2508.16211.

With d, d′ the last two computed values and k, k′ the last two values of all, forecast ones too, the
value e steps after d is d + min(e, 3)/2·((d − d′) + (k − k′)); beyond the horizon of 3 steps it is
weighted 3/e against d. Differences are not divided by their spacing. Before the second computed
value it is d.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...kernels.ops import Ops
from ..site import Level
from ..stand_in import Kept, Moment, TensorSpec

HORIZON = 3.0


@dataclass(frozen=True)
class DampedFoCa:
    """Keeps d, d′ and b, the value just before d; every forecast is a combination of them."""

    levels: ClassVar[tuple[Level, ...]] = ("blocks", "branch", "guidance", "velocity")
    network: ClassVar[None] = None
    reads_to_keep: ClassVar[bool] = True
    ops: Ops

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like._replace(shape=(3, *like.shape)),)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The weights of d, d′ and b: in this step's value, then in that of the step before."""
        if len(kept_at) < 2:
            return (1.0, 0.0, 0.0) * 2
        elapsed = step - kept_at[-1]
        return *_weights(elapsed), *_weights(elapsed - 1)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the values before it are still needed."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (values,) = kept
        before = self.ops.forecast(values, at.numbers[3:])
        values[1].copy_(values[0])
        values[0].copy_(value)
        values[2].copy_(before)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.ops.forecast(kept[0], at.numbers[:3])


def _weights(elapsed: int) -> tuple[float, float, float]:
    """The weights of d, d′ and b in the value `elapsed` steps after d."""
    now, before = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    for e in range(1, elapsed + 1):
        reach = min(e, HORIZON) / 2 * min(1.0, HORIZON / e)
        change = (k - b for k, b in zip(now, before, strict=True))
        slopes = (s + c for s, c in zip((1.0, -1.0, 0.0), change, strict=True))
        base = 1.0, 0.0, 0.0
        now, before = tuple(d + reach * s for d, s in zip(base, slopes, strict=True)), now
    return now
