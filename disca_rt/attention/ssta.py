"""Sliding tile attention (STA, arXiv 2502.04507) and SSTA of HunyuanVideo 1.5, which selects more.

Image tokens are in 3-D tiles. A tile attends to those around it, in SSTA also to the most important
ones, and text goes with everything. As in the authors' code (HunyuanVideo-1.5 and flex-block-attn);
knows tokens and heads, no caches, no ranks and no package.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.key_blocks import KeyBlocks
from .block_plans import QUERIES, in_blocks, of_block_mask
from .protocol import AttentionInputs
from .tiles import Grid

IMAGE_TILES: dict[int, Grid] = {384: (1, 16, 24), 128: (1, 16, 8), 64: (1, 8, 8), 16: (1, 4, 4)}
"""Tiles of one frame, by the tokens of a tile of a video."""

SHORT = 31  # frames of latents, five seconds: half as many tiles are selected

Padding = Literal["zero", "repeat"]
Sampling = Literal["importance", "similarity"]


@dataclass(frozen=True)
class Tiling:
    """Tiles of sides `tile` over `grid`, some of which reach beyond it; a tile attends to `window`.

    `padding`: beyond the grid are keys of zeros, which count in the softmax, or copies of the last
    token of a side.
    """

    grid: Grid
    tile: Grid
    window: Grid
    padding: Padding = "zero"

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of tiles of each side."""
        return tuple(-(-side // edge) for side, edge in zip(self.grid, self.tile, strict=True))

    def rows(self, device: torch.device, is_repeated: bool = False) -> Tensor:
        """The tokens `[N, P]` int32 of each tile; beyond the grid -1, or the last of a side."""
        t, h, w = (self._places(axis, device) for axis in range(3))
        _, height, width = self.grid
        last = [side - 1 for side in self.grid]
        at = [x.clamp(max=end) for x, end in zip((t, h, w), last, strict=True)]
        rows = (at[0] * height + at[1]) * width + at[2]
        is_inside = (t <= last[0]) & (h <= last[1]) & (w <= last[2])
        rows = rows if is_repeated else rows.where(is_inside, -1)
        return rows.permute(0, 2, 4, 1, 3, 5).reshape(prod(self.counts), -1).int()

    def near(self, device: torch.device) -> Tensor:
        """Which tiles `[N, N]` are in each one's window, which stays within the grid."""
        at = torch.meshgrid(*(torch.arange(n, device=device) for n in self.counts), indexing="ij")
        found = torch.ones((), dtype=torch.bool, device=device)
        for x, count, size in zip(at, self.counts, self.window, strict=True):
            x, half = x.flatten(), size // 2
            centre = x.clamp(min=half).clamp(max=count - 1 - half)
            found = found & ((centre[:, None] - x).abs() <= half)
        return found

    def _places(self, axis: int, device: torch.device) -> Tensor:
        """Coordinates along a side, in the shape of (tiles, within a tile) of all three."""
        shape = [1] * 6
        shape[2 * axis : 2 * axis + 2] = self.counts[axis], self.tile[axis]
        return torch.arange(prod(shape), device=device).view(shape)


def tiling(grid: Grid, tile: Grid, window: Grid, padding: Padding = "zero") -> Tiling:
    """Tiles of a video, or of one frame, where a tile of as many tokens attends to itself alone."""
    if grid[0] > 1:
        return Tiling(grid, tile, window, padding)
    if prod(tile) not in IMAGE_TILES:
        raise ValueError(
            f"tile_size must be of {sorted(IMAGE_TILES)} tokens for one frame, got {tile}"
        )
    return Tiling(grid, IMAGE_TILES[prod(tile)], (1, 1, 1), padding)


def selected_of(grid: Grid, topk: int) -> int:
    """Tiles that are selected in a video on `grid`, of the `topk` of one of ten seconds."""
    return topk // 2 if 1 < grid[0] <= SHORT else topk


def important_tiles(
    inputs: AttentionInputs, tiles: Tiling, topk: int, weight: float, sampling: Sampling
) -> Tensor:
    """For each tile the `topk` most important ones, `[B, H, N, N]`, by the means of q and k.

    Importance is `weight` times the cosine of a query's and a key's mean, less `1 - weight` times
    the key's mean cosine with the other keys, cosines from 0 to 1; or similarity, the product.
    """
    q, k = (_means(each, tiles) for each in inputs[:2])
    if sampling == "similarity":
        found = torch.matmul(q, k.transpose(2, 3))
    else:
        q, k = (F.normalize(each, dim=-1, eps=0.0) for each in (q, k))
        alike, redundant = (torch.matmul(each, k.transpose(2, 3)) / 2 + 0.5 for each in (q, k))
        others = redundant.sum(2) - redundant.diagonal(dim1=2, dim2=3)
        redundancy = others / max(1, k.shape[2] - 1)
        found = weight * alike - (1 - weight) * redundancy[:, :, None]
    top = found.topk(min(topk, k.shape[2]), dim=-1, sorted=False).indices
    return torch.zeros_like(found, dtype=torch.bool).scatter(-1, top, True)


def _means(x: Tensor, tiles: Tiling) -> Tensor:
    """The mean `[B, H, N, D]` fp32 of each tile of `x [B, S, H, D]`, rounded as `x` is."""
    rows = tiles.rows(x.device, tiles.padding == "repeat").long()
    filled = x[:, rows.clamp(min=0)].masked_fill(rows[..., None, None] < 0, 0)
    return filled.mean(2).transpose(1, 2).float()


def block_mask(tiles: Tiling, selected: Tensor | None, text: int, device: torch.device) -> Tensor:
    """Table `[B or 1, H or 1, N + text, N + text]` of who attends: tiles to theirs, text to all."""
    near = tiles.near(device)
    near = near[None, None] if selected is None else selected | near
    return F.pad(near, (0, text, 0, text), value=True)


def plan(inputs: AttentionInputs, tiles: Tiling, selected: Tensor | None = None) -> KeyBlocks:
    """The plan of attention to the tiles in the window, those `selected [B, H, N, N]`, and text."""
    device, (queries, keys) = inputs.q.device, rows_in_blocks(inputs, tiles)
    count = prod(tiles.counts)
    mask = block_mask(tiles, selected, len(queries) - count, device)
    empty = None
    if tiles.padding == "zero":
        empty = F.pad((tiles.rows(device) < 0).sum(1), (0, len(queries) - count))
    return of_block_mask(mask, *(_even(each) for each in (queries, keys)), empty)


def rows_in_blocks(inputs: AttentionInputs, tiles: Tiling) -> tuple[Tensor, Tensor]:
    """Rows `[N + text, P]` of queries and of keys, tiles and then text; -1 where there is none."""
    img, tokens, device = inputs.layout.img_len, inputs.q.shape[1], inputs.q.device
    text = in_blocks(torch.arange(img, tokens, device=device), prod(tiles.tile))
    of_tiles = (
        tiles.rows(device, is_repeated) for is_repeated in (False, tiles.padding == "repeat")
    )
    queries, keys = (torch.cat([each, text]) for each in of_tiles)
    return queries, keys


def _even(rows: Tensor) -> Tensor:
    """`rows` in blocks of a multiple of 16, as kernels want them."""
    return F.pad(rows, (0, -rows.shape[1] % QUERIES[-1]), value=-1)
