"""Rows whose velocity is computed anew, and those whose velocity is kept: RAS (arXiv 2502.10389).

As in the authors' code (microsoft/RAS), which is for images: a row's score is the standard
deviation over channels of its velocity, averaged over its patch, times exp(`starvation_scale`·the
times that it was dropped). Each latent frame drops 1 - `sample_ratio` of its rows (a choice: an
image is one frame), the same in all samples of a batch (a choice: by the mean of their scores).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...config import DiTConfig
from ...tokens import TokenLayout
from ..site import Level
from ..stand_in import Kept, Moment, Place, StandInDefaults, TensorSpec
from .rows_of_blocks import RowsOfBlocks

VELOCITY = 1  # the number of the slot that chooses, in the method's row


@dataclass(frozen=True)
class Dropping(StandInDefaults):
    """Of the k dropped rows of a frame `high_ratio`·k have the highest scores, others the lowest.

    Both numbers are cut to whole ones.
    """

    takes = "selection"
    refreshes: ClassVar[bool] = True
    config: DiTConfig
    sample_ratio: float = 0.5
    high_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sample_ratio <= 1:
            raise ValueError(f"sample_ratio must be above 0 and at most 1, got {self.sample_ratio}")
        if not 0 <= self.high_ratio <= 1:
            raise ValueError(f"high_ratio must be from 0 to 1, got {self.high_ratio}")

    def dropped(self, rows: int) -> tuple[int, int]:
        """The rows of a frame of `rows` that are dropped: of the lowest, and the highest scores."""
        gone = int((1 - self.sample_ratio) * rows)
        return int(gone * (1 - self.high_ratio)), int(gone * self.high_ratio)


@dataclass(frozen=True)
class FreshVelocity(Dropping):
    """Keeps the velocity, each row's count of drops, and a mask of the rows of the next step."""

    levels: ClassVar[tuple[Level, ...]] = ("velocity",)
    mixes_samples: ClassVar[bool] = True
    starvation_scale: float = 0.1
    metric: Literal["std", "l2norm"] = "std"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in ("std", "l2norm"):
            raise ValueError(f"metric must be std or l2norm, got {self.metric!r}")

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        frames, *sides = self.config.token_grid(like.shape[2:])
        grid = like._replace(shape=(frames, sides[0] * sides[1]))
        return like, grid, grid._replace(dtype=torch.uint8)

    @staticmethod
    def rows_of_next_step(kept: Kept) -> Tensor:
        """The mask uint8 `[T, H·W]` in what it keeps: 1 of rows that the next step computes."""
        return kept[2]

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Whether something was kept before, and whether the next step's rows are to be chosen."""
        return float(bool(kept_at)), *(given or (0.0,))

    def row_count(self, place: Place, rows: int) -> int:
        return rows

    def out(self, kept: Kept) -> Tensor | None:
        """None: the velocity is computed elsewhere."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        velocity, drops, _ = kept
        velocity.copy_(value)
        drops.mul_(at.numbers[0])
        self._choose(kept, at.numbers[1])

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0]

    def refresh(self, kept: Kept, compute: Callable[[], Tensor], at: Moment) -> Tensor:
        velocity, _, mask = kept
        grid = self.config.token_grid(velocity.shape[2:])
        is_fresh = mask.view(grid)
        for dim, size in enumerate(self.config.patch):
            is_fresh = is_fresh.repeat_interleave(size, dim)
        velocity.copy_(torch.where(is_fresh > 0, compute(), velocity))
        self._choose(kept, at.numbers[1])
        return velocity

    def _choose(self, kept: Kept, is_wanted: Tensor) -> None:
        """The mask of the next step, and the drops with it; nothing where it is not wanted."""
        velocity, drops, mask = kept
        rows = drops.shape[1]
        order = (self._scores(velocity) * torch.exp(self.starvation_scale * drops)).argsort(1)
        low, high = self.dropped(rows)
        chosen = torch.ones_like(mask)
        for ends in (order[:, :low], order[:, rows - high :]):
            chosen.scatter_(1, ends, 0)
        mask.copy_(torch.where(is_wanted > 0, chosen, mask))
        drops.add_(is_wanted * (1 - chosen.float()))

    def _scores(self, velocity: Tensor) -> Tensor:
        """A score `[T, H·W]` of each row."""
        is_std = self.metric == "std"
        pixels = velocity.std(1) if is_std else velocity.norm(dim=1)
        pixels = pixels.mean(0)
        for dim, size in zip((0, 2, 4), self.config.patch, strict=True):
            pixels = pixels.unflatten(dim, (-1, size))
        return pixels.mean((1, 3, 5)).flatten(1)


@dataclass(frozen=True)
class FreshRows(Dropping, RowsOfBlocks):
    """All blocks on the rows that the velocity's slot has chosen, and all text."""

    def row_count(self, place: Place, rows: int) -> int:
        return rows - sum(self.dropped(rows))

    def chosen(self, at: Moment) -> Tensor:
        return FreshVelocity.rows_of_next_step(at.whole_of(VELOCITY, which_pass=0)).flatten()

    def room(self, layout: TokenLayout, clean: int) -> int:
        """The most image rows that may be chosen of a rank's; exact on one rank."""
        frames, height, width = layout.grid
        rows = height * width
        fresh = rows - sum(self.dropped(rows))
        own = range(layout.start + clean, layout.start + layout.img_len)
        frame = (
            range(max(own.start, f * rows), min(own.stop, (f + 1) * rows)) for f in range(frames)
        )
        return clean + sum(min(fresh, len(each)) for each in frame)
