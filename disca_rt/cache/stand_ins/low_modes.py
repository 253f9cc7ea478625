"""The low modes of a tensor over the grid of image tokens, and what is left without them.

A mode is a product of one cosine or sine over each of T, H and W: real forms of the Fourier and
cosine transforms' bases. Few are low, so their weights are one small product of matrices over the
rows at hand, added up over ranks; nothing else is exchanged.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...graphs.between import between_graphs
from ...sharding import Sharding
from ...tokens import TokenLayout

CHUNK = 8192  # rows of the basis that are made at once
Transform = Literal["FFT", "DCT"]


class LowModes(NamedTuple):
    """The modes of frequency at most `cutoff_ratio` of the grid's largest, by `transform`.

    A frequency is the length of (f_T, f_H, f_W): cycles per token, of cosines half cycles.
    """

    transform: Transform
    cutoff_ratio: float

    def remove(self, img: Tensor, layout: TokenLayout, sharding: Sharding) -> None:
        """Takes them out of `img [B, S_img, C]`, in place: this rank's rows of all image tokens."""
        weights = self.weights(img, layout)
        if sharding.size > 1:
            weights = between_graphs(sharding.total, weights)
        for rows, first in self._chunks(img, layout):
            rows -= (self._basis(layout.grid, first, rows) @ weights).to(img.dtype)

    def weights(self, img: Tensor, layout: TokenLayout) -> Tensor:
        """The modes' weights `[B, K, C]` fp32, of the rows at hand."""
        total = torch.zeros((), device=img.device)
        for rows, first in self._chunks(img, layout):
            total = total + self._basis(layout.grid, first, rows).T @ rows.float()
        return total * self._is_low(layout.grid, img.device)[:, None]

    def _chunks(self, img: Tensor, layout: TokenLayout) -> list[tuple[Tensor, int]]:
        """Pieces of `img`, each with the number of its first row among all image tokens."""
        starts = range(0, max(img.shape[1], 1), CHUNK)
        return [(img[:, start : start + CHUNK], layout.start + start) for start in starts]

    def _basis(self, grid: tuple[int, int, int], first: int, rows: Tensor) -> Tensor:
        """`[S, K]` fp32: the modes at image tokens from number `first`, orthonormal over all."""
        number = torch.arange(first, first + rows.shape[1], device=rows.device)
        _, height, width = grid
        places = number // (height * width), number // width % height, number % width
        basis = torch.ones(rows.shape[1], 1, device=rows.device)
        for place, size, count in zip(places, grid, self._counts(grid), strict=True):
            of_axis = self._of_axis(place, size, count)
            basis = (basis[:, :, None] * of_axis[:, None, :]).flatten(1)
        return basis

    def _of_axis(self, place: Tensor, size: int, count: int) -> Tensor:
        """The first `count` modes of an axis of `size` tokens at `place`: `[S, count]`."""
        mode = torch.arange(count, device=place.device)
        turns = self._frequencies(mode, size) * math.pi * (1 + (self.transform == "FFT"))
        if self.transform == "FFT":  # 1, cos, sin, cos, sin, ...
            angle = place.double()[:, None] * turns
            waves = torch.where(mode % 2 == 1, angle.cos(), angle.sin() + (mode == 0))
            is_own_sine = (mode == 0) | (2 * ((mode + 1) // 2) == size)
        else:
            waves = ((place.double() + 0.5)[:, None] * turns).cos()
            is_own_sine = mode == 0
        return (waves * torch.where(is_own_sine, 1.0, 2.0).div(size).sqrt()).float()

    def _is_low(self, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        """A mask `[K]` of the modes within the radius; `_basis` has a box of them."""
        square = torch.zeros(1, dtype=torch.float64, device=device)
        for size, count in zip(grid, self._counts(grid), strict=True):
            frequency = self._frequencies(torch.arange(count, device=device), size)
            square = (square[:, None] + frequency.square()).flatten()
        return square.sqrt() <= self._cutoff(grid)

    def _counts(self, grid: tuple[int, int, int]) -> list[int]:
        """The number of modes of each axis whose frequency alone is not too high."""
        return [self._count(size, self._cutoff(grid)) for size in grid]

    def _count(self, size: int, cutoff: float) -> int:
        frequencies = self._frequencies(torch.arange(size), size)
        return int((frequencies <= cutoff).sum())

    def _cutoff(self, grid: tuple[int, int, int]) -> float:
        largest = math.sqrt(
            sum(float(self._frequencies(torch.tensor(n - 1), n)) ** 2 for n in grid)
        )
        return self.cutoff_ratio * largest + 1e-9

    def _frequencies(self, mode: Tensor, size: int) -> Tensor:
        """Frequencies of modes by number, fp64."""
        waves = (mode + 1) // 2 if self.transform == "FFT" else mode
        return waves.double() / size
