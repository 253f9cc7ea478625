"""FreqCa (arXiv 2510.08669): the low band of the hidden state is reused, the high one forecast.

Both bands of the last full step add up to its value, and the filter is linear. So a forecast is
that value and the high band's derivatives, and one filter a full step is enough: on the difference
from which the first of them is made, that of order `min_order` + 1.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...kernels.ops import Ops
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, Terms
from .low_modes import LowModes
from .polynomial import MAX_ORDER, Differences, hermite
from .taylorseer import TaylorSeer

DECOMPOSITIONS = "FFT", "DCT", "None"
METHODS = "hermite", "taylor"


@dataclass(frozen=True)
class FreqCa(Differences):
    """The high band by `max_order` derivatives, the low one by `min_order`.

    `decompose_method` "FFT", "DCT" or "None" with `cutoff_ratio`; `forecast_method` "hermite" (with
    σ `scale_factor`) or "taylor". Choices, for the authors' code is for images: frequencies are
    those over the tokens' grid in (T, H, W); text rows are all low. Their pseudo-full steps
    (`use_z_cache`) are not here.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)
    ops: Ops
    max_order: int = 2
    min_order: int = 0
    first_enhance: int = 3
    forecast_method: Literal["hermite", "taylor"] = "hermite"
    decompose_method: Literal["FFT", "DCT", "None"] = "FFT"
    cutoff_ratio: float = 0.1
    scale_factor: float = 0.71

    def __post_init__(self) -> None:
        check_int("max_order", self.max_order, 0, MAX_ORDER)
        check_int("min_order", self.min_order, 0, self.max_order)
        check_int("first_enhance", self.first_enhance, 1)
        for name, known in (("forecast_method", METHODS), ("decompose_method", DECOMPOSITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {[*known]}, got {getattr(self, name)!r}")
        for name in ("cutoff_ratio", "scale_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    @property
    def orders(self) -> int:
        return self.max_order

    def known(self, kept_at: tuple[int, ...]) -> int:
        """As TaylorSeer: derivatives are formed from step `first_enhance` - 1 on."""
        return TaylorSeer(self.ops, self.max_order, self.first_enhance).known(kept_at)

    def basis(self, order: int, distance: int) -> float:
        if self.forecast_method == "taylor":
            return super().basis(order, distance)
        return self.scale_factor**order * hermite(order, self.scale_factor * distance)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """As `Differences`; before the coefficients distance and known ones of the filtered."""
        distance, known, *weights = super().numbers(kept_at, step, given)
        return (distance, known, distance, max(known - self.min_order - 1, 1.0), *weights)

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        (factors,) = kept
        plain, filtered = factors.tensor_split([self.min_order + 1])
        if len(filtered) == 0:
            return self.ops.finite_differences(plain, value, at.numbers[:2])
        before = plain[-1].clone()
        self.ops.finite_differences(plain, value, at.numbers[:2])
        change = torch.sub(plain[-1], before, out=before).div_(at.numbers[0])
        # Before there are enough values it is none: of what an earlier sample left nothing is made.
        change.copy_(torch.where(at.numbers[1] > self.min_order + 1, change, 0))
        self._remove_low_band(change, at)
        self.ops.finite_differences(filtered, change, at.numbers[2:4])

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.ops.forecast(*self.terms(kept, at)[:2])

    def terms(self, kept: Kept, at: Moment) -> Terms:
        return Terms(kept[0], at.numbers[4:])

    def _remove_low_band(self, tokens: Tensor, at: Moment) -> None:
        if self.decompose_method == "None":
            return
        layout = at.context.layout
        tokens[:, layout.img_len :] = 0
        modes = LowModes(self.decompose_method, self.cutoff_ratio)
        modes.remove(tokens[:, : layout.img_len], layout, at.sharding)
