"""A bounded forecast: half the last change, and never beyond half of it.

c + min(k, gap)/(2·gap)·(c − c'), of the last two kept values c and c', `gap` steps apart, k steps
later. Ours: it needs no parameter and stays close to reuse where the path bends.
"""

from dataclasses import dataclass

from ...kernels.ops import Ops
from .polynomial import Differences


@dataclass(frozen=True)
class HalfTaylor(Differences):
    """Half of Taylor's forecast of order 1, over at most as many steps as lay between the two."""

    ops: Ops

    @property
    def orders(self) -> int:
        return 1

    def weights(self, kept_at: tuple[int, ...], step: int) -> tuple[float, ...]:
        if len(kept_at) < 2:
            return (1.0,) * len(kept_at)
        gap = kept_at[-1] - kept_at[-2]
        return (1.0, 0.5 * min(step - kept_at[-1], gap))
