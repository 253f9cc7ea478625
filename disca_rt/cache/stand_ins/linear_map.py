"""Linear maps of the tokens in place of blocks: for FastCache (arXiv 2505.20353).

A block is replaced by W·h + b with W of C x C. These come from a file (`disca-rt train cache
--method fastcache`) or from a calibration that was made with maps. Without both each channel has a
slope and an intercept of its own, by least squares over the rows of the last step in which the
blocks ran (a choice: the authors' code leaves its maps as they are drawn at random).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import DiTConfig
from ...graphs.between import between_graphs
from ...tokens import StepContext
from ..calibration import Calibration
from ..map_file import calibrated_maps, maps_on, read_maps
from ..options import File
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec

EPS = 1e-6  # of a channel's variance: one that does not vary keeps its mean


@dataclass(frozen=True)
class Mapped(StandInDefaults):
    """A base for stand-ins with linear maps; `maps` is a file of them.

    `_digest` tells those of C x C apart; it is empty where channels are mapped apart.
    """

    fitted: ClassVar[tuple[str, ...]] = ("maps",)
    config: DiTConfig | None = None
    calibration: Calibration | None = None
    maps: File | None = None
    _digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.maps is not None:
            object.__setattr__(self, "_digest", read_maps(self.maps, self.config).digest)
        elif calibrated_maps(self.calibration, self.config) is not None:
            object.__setattr__(self, "_digest", "calibrated")

    @staticmethod
    def fitted_of(calibration: Calibration | None, config: DiTConfig) -> set[str]:
        """The options that a calibration gives: its maps, where it has any."""
        return {"maps"} if calibrated_maps(calibration, config) is not None else set()

    @property
    def matrices(self) -> int:
        """One where maps are of C x C."""
        return int(bool(self._digest))

    def fitted_spec(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        """The buffer of slopes and intercepts `[B, 2, C]` fp32, where channels are mapped apart."""
        if self._digest:
            return ()
        batch, _, hidden = like.shape
        return (like._replace(shape=(batch, 2, hidden), dtype=torch.float32),)

    def fit(self, kept: Kept, x: Tensor, y: Tensor, at: Moment) -> None:
        """Writes the map from rows `x` to `y [B, S, C]`, of all ranks, into the last buffer."""
        if not self._digest:
            kept[-1].copy_(_least_squares(x, y, at))

    def mapped(self, kept: Kept, x: Tensor, number: int) -> Tensor:
        """The rows `x [B, S, C]` by the map of that number."""
        if self._digest:
            where = x.device, x.dtype
            maps = maps_on(self.maps, self.calibration, self.config, self._digest, *where)
            return F.linear(x, maps.weight[number], maps.bias[number])
        slope, intercept = (each.to(x.dtype) for each in kept[-1].unbind(1))
        return torch.addcmul(intercept[:, None], x, slope[:, None])


@dataclass(frozen=True)
class LinearMap(Mapped):
    """The map of one block, image and text together."""

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return self.fitted_spec(like)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the value is read, and not kept."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        self.fit(kept, at.entering, value, at)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.mapped(kept, at.entering, 0 if at.site is None else at.site.start)


def _least_squares(x: Tensor, y: Tensor, at: Moment) -> Tensor:
    """Slope and intercept `[B, 2, C]` of each channel, over the rows of all ranks."""
    x, y = x.float(), y.float()
    weight = _weights(x, at.context)
    sums = torch.stack([(x * weight).sum(1), (y * weight).sum(1), weight.sum(1).expand_as(x[:, 0])])
    total_x, total_y, count = _total(sums, at)
    mean_x, mean_y = total_x / count, total_y / count
    centred = (x - mean_x[:, None]) * weight
    products = (centred * (y - mean_y[:, None])).sum(1), centred.square().sum(1)
    covariance, variance = _total(torch.stack(products), at) / count
    slope = covariance / (variance + EPS)
    return torch.stack([slope, mean_y - slope * mean_x], dim=1)


def _weights(x: Tensor, context: StepContext | None) -> Tensor:
    """1 of rows that are no padding, otherwise 0: `[B, S, 1]`."""
    if context is None or context.layout.lengths is None:
        return x.new_ones(*x.shape[:2], 1)
    places = torch.arange(x.shape[1], device=x.device) + context.layout.start
    return (places < context.layout.lengths[:, None])[..., None].to(x.dtype)


def _total(sums: Tensor, at: Moment) -> Tensor:
    return between_graphs(at.sharding.total, sums) if at.sharding.size > 1 else sums
