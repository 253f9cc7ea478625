"""Tokens of a video in the order of 3-D tiles, so that a group of queries is one place of it.

Only which queries are a group follows from it; the tokens themselves stay where they are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Grid = tuple[int, int, int]


def tile_ranks(grid: Grid, tile: Grid, tokens: int, device: torch.device) -> Tensor:
    """The place `[S]` of each of `tokens` tokens when tiles follow one another, int64.

    Image tokens are in `grid` (T, H, W), row by row. First come those of whole tiles of sides
    `tile`, tile by tile, then the rows of what is left at the end of T, of H and of W, then text.
    """
    at = coordinates(grid, device)
    counts = [side // edge for side, edge in zip(grid, tile, strict=True)]
    t, h, w = (
        x < count * edge for x, count, edge in zip(at, counts, tile, strict=True)
    )  # those in whole tiles
    tile_number = _joined([x // edge for x, edge in zip(at, tile, strict=True)], counts)
    within = _joined([x % edge for x, edge in zip(at, tile, strict=True)], tile)
    img, size = len(within), tile[0] * tile[1] * tile[2]
    rest = torch.arange(img, device=device) + img * torch.where(~t, 1, torch.where(~h, 2, 3))
    ranks = torch.where(t & h & w, tile_number * size + within, rest).argsort().argsort()
    return torch.cat([ranks, torch.arange(img, tokens, device=device)])


def coordinates(grid: Grid, device: torch.device) -> list[Tensor]:
    """The t, h and w of each image token, `[T·H·W]` each."""
    sides = (torch.arange(side, device=device) for side in grid)
    return [each.flatten() for each in torch.meshgrid(*sides, indexing="ij")]


def _joined(at: Sequence[Tensor], sides: Sequence[int]) -> Tensor:
    """One number from three coordinates: the last one runs fastest."""
    t, h, w = at
    return (t * sides[1] + h) * sides[2] + w
