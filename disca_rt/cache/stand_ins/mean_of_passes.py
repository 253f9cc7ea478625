"""T-GATE's reuse of what depends on the text: the mean of both passes' last values."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...tokens import TokenLayout
from ..site import Level
from ..stand_in import Kept, KeptAsIs, Moment, OtherPass, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class MeanOfPasses(KeptAsIs, StandInDefaults):
    """The mean of what both passes kept, in rows that both have; elsewhere this pass's own.

    T-GATE (arXiv 2404.02747) keeps outputs of cross-attention, whose rows are the image's and thus
    as many in both passes. Here rows are text: those of equal number are paired (choice). With one
    pass it is the value kept last.
    """

    levels: ClassVar[tuple[Level, ...]] = ("branch",)
    reads_to_keep: ClassVar[bool] = False
    reads_other_pass: ClassVar[bool] = True

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        (own,) = kept
        if at.other is None:
            return own
        theirs = at.other.kept[0]
        common = min(own.shape[1], theirs.shape[1])
        share = 0.5 * _has_rows(at.other, at.context.layout, common)
        paired = torch.lerp(own[:, :common].float(), theirs[:, :common].float(), share)
        return torch.cat([paired.to(own.dtype), own[:, common:]], dim=1)


def _has_rows(other: OtherPass, layout: TokenLayout, rows: int) -> Tensor:
    """1 where the other pass has a sample's text row, 0 where that is padding: `[B or 1, S, 1]`."""
    first = layout.start + layout.img_len
    places = torch.arange(first, first + rows, device=other.kept[0].device)
    if other.lengths is None:
        return torch.ones_like(places, dtype=torch.float32)[None, :, None]
    return (places < other.lengths[:, None]).float()[:, :, None]
