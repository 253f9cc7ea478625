"""All blocks on some image rows and all text, with kept keys and values of the other rows."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ...attention.kept_keys import Rows
from ...config import DiTConfig
from ...tokens import RowVectors, TokenLayout
from ..site import Level
from ..stand_in import Kept, KeptAsIs, Moment, StandInDefaults, TensorSpec


class RowsOfBlocks(KeptAsIs, StandInDefaults):
    """A base for stand-ins that choose the rows, by `chosen` and `room`; all of a model's blocks.

    Keeps the last tokens, and keys and values of every block. Rows of a clean first frame are all
    computed, for they are modulated apart.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)
    refreshes: ClassVar[bool] = True
    has_keys: ClassVar[bool] = True
    config: DiTConfig

    def chosen(self, at: Moment) -> Tensor:
        """The rows to compute, as uint8 `[S_img]`: 1 of those of all image tokens, else 0."""
        raise NotImplementedError

    def room(self, layout: TokenLayout, clean: int) -> int:
        """The most rows that are computed of a rank's image rows, fixed by the shape of a sample.

        `clean` rows of a clean first frame are among them.
        """
        raise NotImplementedError

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,) * (1 + 2 * (self.config.double + self.config.single))

    def keys(self, kept: Kept, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, S, C]` of a block, counted from the first of the site."""
        return kept[1 + 2 * block], kept[2 + 2 * block]

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0]

    def refresh(self, kept: Kept, compute: Callable[[Rows], Tensor], at: Moment) -> Tensor:
        rows = self._rows(at, self.chosen(at), kept[0].shape[1])
        return kept[0].index_copy_(1, rows.index, compute(rows))

    def _rows(self, at: Moment, chosen: Tensor, count: int) -> Rows:
        """This rank's joint rows by the mask `chosen` of all image rows, in order, and text."""
        layout, vec = at.context.layout, at.context.vec
        img = layout.img_len
        clean = vec.starts[-1] if isinstance(vec, RowVectors) else 0
        mask = chosen[layout.start :][:img].clone()
        mask[:clean] = 1
        index = mask.topk(self.room(layout, clean)).indices.sort().values
        text = torch.arange(img, count, device=index.device)
        is_meant = torch.cat([mask[index] > 0, torch.ones_like(text, dtype=torch.bool)])
        return Rows(torch.cat([index, text]), is_meant)
