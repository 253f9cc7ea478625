"""STA and SSTA (HunyuanVideo 1.5): attention between 3-D tiles, as `attention/ssta.py` has them.

Which tiles attend to which is told from their places, in SSTA also from q and k in every step:
nothing is kept. Options have the names of the authors' `attn_param`.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...attention import ssta
from ...attention.block_plans import attend_by
from ...attention.protocol import AttentionInputs
from ...attention.tiles import Grid
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, PairShares, StandInDefaults, TensorSpec

CPU = torch.device("cpu")


@dataclass(frozen=True)
class SlidingTiles(StandInDefaults):
    """A tile attends to the `win_size` tiles (T, H, W) around it and to text, text to everything.

    At the edges of the grid a window is moved inwards. A frame alone is in tiles of as many tokens,
    each of which attends to itself.
    """

    levels: ClassVar[tuple[Level, ...]] = ("attention",)
    needs_kept: ClassVar[bool] = False
    reads_to_keep: ClassVar[bool] = False
    win_size: tuple[int, ...] = (3, 3, 3)
    tile_size: tuple[int, ...] = (6, 8, 8)
    attn_pad_type: Literal["zero", "repeat"] = "zero"

    def __post_init__(self) -> None:
        for name in ("win_size", "tile_size"):
            sides = getattr(self, name)
            if len(sides) != 3 or min(sides) < 1:
                raise ValueError(f"{name} must be three sides (T, H, W) such as 3,3,3, got {sides}")
        if any(side % 2 == 0 for side in self.win_size):
            raise ValueError(f"win_size must be odd, a tile in its middle, got {self.win_size}")
        if self.attn_pad_type not in ("zero", "repeat"):
            raise ValueError(f"attn_pad_type must be zero or repeat, got {self.attn_pad_type!r}")

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return ()

    def out(self, kept: Kept) -> Tensor | None:
        """None: nothing is kept."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        """Keeps nothing."""

    def value(self, kept: Kept, at: Moment) -> Tensor:
        inputs, tiles = at.attention, self._tiles(at.attention.layout.grid)
        return attend_by(ssta.plan(inputs, tiles, self._selected(inputs, tiles)), inputs)

    def pair_shares(self, grid: Grid, text: int) -> PairShares:
        """Of the tokens of tiles, without those beyond the grid; selected tiles as if whole."""
        img, more = prod(grid), self._most_selected(grid)
        tiles = self._tiles(grid)
        sizes = (tiles.rows(CPU) >= 0).sum(1)
        keys = (tiles.near(CPU) * sizes).sum(1) + more * prod(tiles.tile)
        pairs = int((sizes * (keys.clamp(max=img) + text)).sum())
        return PairShares((pairs + text * (img + text)) / (img + text) ** 2)

    def _tiles(self, grid: Grid) -> ssta.Tiling:
        return ssta.tiling(grid, self.tile_size, self.win_size, self.attn_pad_type)

    def _most_selected(self, grid: Grid) -> int:
        return 0

    def _selected(self, inputs: AttentionInputs, tiles: ssta.Tiling) -> Tensor | None:
        """None: no tiles beside those of the window."""


@dataclass(frozen=True)
class SelectedTiles(SlidingTiles):
    """Beside those of its window a tile attends to the `ssta_topk` most important ones.

    That many for ten seconds, half as many up to five, for each head of each sample. A choice: of
    text its valid tokens alone (the authors fill it up to whole tiles with padding).
    """

    ssta_topk: int = 64
    ssta_lambda: float = 0.7
    ssta_sampling_type: Literal["importance", "similarity"] = "importance"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("ssta_topk", self.ssta_topk, 1)
        if not 0 <= self.ssta_lambda <= 1:
            raise ValueError(f"ssta_lambda must be from 0 to 1, got {self.ssta_lambda}")
        if self.ssta_sampling_type not in ("importance", "similarity"):
            raise ValueError(
                "ssta_sampling_type must be importance or similarity, got "
                f"{self.ssta_sampling_type!r}"
            )

    def _most_selected(self, grid: Grid) -> int:
        return ssta.selected_of(grid, self.ssta_topk)

    def _selected(self, inputs: AttentionInputs, tiles: ssta.Tiling) -> Tensor:
        count, weight = self._most_selected(inputs.layout.grid), self.ssta_lambda
        return ssta.important_tiles(inputs, tiles, count, weight, self.ssta_sampling_type)
