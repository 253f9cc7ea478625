"""A linear map of the tokens in place of blocks, fitted where they ran: for FastCache.

FastCache (arXiv 2505.20353) takes W·h + b with W of C x C. Here each channel has a slope and an
intercept of its own, by least squares over the rows of the last step in which the blocks ran (a
choice: nothing is to be trained, and C x C numbers of every block are not kept). A rank fits its
own rows, image and text together.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..site import Level
from ..stand_in import Kept, Moment, Numberless, TensorSpec

EPS = 1e-6  # of a channel's variance: one that does not vary keeps its mean


@dataclass(frozen=True)
class LinearMap(Numberless):
    """Keeps slopes and intercepts `[B, 2, C]` fp32."""

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        batch, _, hidden = like.shape
        return (like._replace(shape=(batch, 2, hidden), dtype=torch.float32),)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the value is read, and not kept."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        x, y = at.entering.float(), value.float()
        mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
        centred = x - mean_x
        slope = (centred * (y - mean_y)).mean(1) / (centred.square().mean(1) + EPS)
        kept[0].copy_(torch.stack([slope, mean_y[:, 0] - slope * mean_x[:, 0]], dim=1))

    def value(self, kept: Kept, at: Moment) -> Tensor:
        slope, intercept = (each.to(at.entering.dtype) for each in kept[0].unbind(1))
        return torch.addcmul(intercept[:, None], at.entering, slope[:, None])
