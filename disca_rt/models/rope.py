"""Rotary position tables of the image tokens, an axis each for t, h, w (arXiv 2104.09864)."""

from collections import OrderedDict

import torch
from torch import Tensor

ROPE_THETA = 256.0
RECENT = 4  # grids whose tables stay: 33 MB each at 704x704x129

Tables = tuple[Tensor, Tensor]
"""cos and sin."""


class RopeTables:
    """The tables of the last grids, so that the next sample of a size computes none.

    `axes` are the channels of a head for t, h and w.
    """

    def __init__(self, axes: tuple[int, int, int]) -> None:
        self._axes = axes
        self._recent: OrderedDict[tuple, Tables] = OrderedDict()

    def of(self, grid: tuple[int, int, int], device: torch.device) -> Tables:
        """cos and sin `[T·H·W, sum(axes)/2]` fp32 of a grid; not to be written into."""
        key = grid, device
        if key not in self._recent:
            with torch.inference_mode(False):  # made within it, no gradient could pass them
                self._recent[key] = rope_frequencies(grid, self._axes, device)
        self._recent.move_to_end(key)
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return self._recent[key]


def rope_frequencies(
    grid: tuple[int, int, int], axes: tuple[int, int, int], device: torch.device | str
) -> Tables:
    """cos and sin `[T·H·W, sum(axes)/2]` fp32 for patch positions t, h, w: one value a pair.

    Computed on `device`: from a CPU 33 MB, and their cosines, would keep a GPU waiting for 40 ms.
    """
    ranges = (torch.arange(n, dtype=torch.float32, device=device) for n in grid)
    positions = torch.meshgrid(*ranges, indexing="ij")
    angles = [_angles(p.flatten(), axis) for p, axis in zip(positions, axes, strict=True)]
    table = torch.cat(angles, dim=1)
    return table.cos(), table.sin()


def _angles(position: Tensor, axis: int) -> Tensor:
    exponent = torch.arange(0, axis, 2, device=position.device).float() / axis
    frequency = 1.0 / ROPE_THETA**exponent
    return torch.outer(position, frequency)
