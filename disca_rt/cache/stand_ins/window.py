"""DiTFastAttn's attention (thu-nics/DiTFastAttn): a window now, the rest as it was; and sharing.

A kept step keeps what attention to all keys adds to attention in a window, o - window(o); later
steps add that to their own window. Or the unconditional pass takes the conditional one's output.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...attention.masks import Window
from ...attention.some_keys import attend_within
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, PairShares, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class WindowResidual(StandInDefaults):
    """Attention to `window_size` image keys on each side, and to text, plus the kept rest.

    Image tokens are one row after another, as the authors have it. Text keys are always attended
    to, and text queries attend to all keys (a choice: the authors' models have image tokens only).
    """

    levels: ClassVar[tuple[Level, ...]] = ("attention",)
    reads_to_keep: ClassVar[bool] = False
    window_size: int = 64

    def __post_init__(self) -> None:
        check_int("window_size", self.window_size, 0)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        img = grid[0] * grid[1] * grid[2]
        share = Window(self.window_size, img, img + text).share
        return PairShares(share, share)

    def out(self, kept: Kept) -> Tensor | None:
        """None: a difference is kept."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        kept[0].copy_(value - self._within(at))

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0] + self._within(at)

    def _within(self, at: Moment) -> Tensor:
        inputs = at.attention
        window = Window(self.window_size, inputs.layout.img_len, inputs.k.shape[1])
        return attend_within(inputs, window)


@dataclass(frozen=True)
class FromConditional(StandInDefaults):
    """The image rows of the conditional pass's attention in this step; text attends by itself.

    Both passes' images are of one prompt's noise, but their texts are not alike (a choice: the
    authors' models have image tokens only). Both passes have a buffer, and one of them is used.
    """

    levels: ClassVar[tuple[Level, ...]] = ("attention",)
    reads_to_keep: ClassVar[bool] = False
    reads_other_pass: ClassVar[bool] = True

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like,)

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        return PairShares(text / (grid[0] * grid[1] * grid[2] + text))

    def out(self, kept: Kept) -> Tensor | None:
        """None: the attention backend has its own output."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        kept[0].copy_(value)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        (q, k, v, valid), img = at.attention[:4], at.attention.layout.img_len
        text = at.attention.backend(q[:, img:], k, v, valid)
        return torch.cat([at.other.kept[0][:, :img], text], dim=1)
