"""RainFusion (arXiv 2505.21036): each head attends in space, in time, or to every second key.

What a head is, is told from its queries in every step: nothing is kept.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...attention.masks import attend, scores
from ...attention.protocol import AttentionInputs
from ...attention.tiles import Grid, coordinates
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, Numberless, PairShares, TensorSpec


@dataclass(frozen=True)
class Near:
    """Image keys near an image query: `frames` before and after it, `rows` above and below.

    `rows` are also columns to both sides; None: all. Text goes with everything.
    """

    grid: Grid
    tokens: int
    frames: int | None
    rows: int | None

    def keys(self, queries: Tensor) -> Tensor:
        img = self.grid[0] * self.grid[1] * self.grid[2]
        found = queries.new_ones(len(queries), self.tokens, dtype=torch.bool)
        reaches = self.frames, self.rows, self.rows
        for x, reach in zip(coordinates(self.grid, queries.device), reaches, strict=True):
            if reach is not None:
                distance = (x[queries.clamp(max=img - 1)][:, None] - x).abs()
                found[:, :img] &= distance <= reach
        return (found | (queries >= img)[:, None])[None, None]


@dataclass(frozen=True)
class Checkerboard:
    """Every second image key, as a checkerboard in (t, h, w); text goes with everything."""

    grid: Grid
    tokens: int

    def keys(self, queries: Tensor) -> Tensor:
        t, h, w = coordinates(self.grid, queries.device)
        found = queries.new_ones(len(queries), self.tokens, dtype=torch.bool)
        found[:, : len(t)] = (t + h + w) % 2 == 0
        return (found | (queries >= len(t))[:, None])[None, None]


@dataclass(frozen=True)
class HeadMasks(Numberless):
    """A head's mask: the one of space or of time that recalls most, if at least `threshold` of it.

    The recall is the softmax's share within the mask, R' = S(Q', K', M') / S(Q', K', 1). A head
    below `threshold` is textural: a checkerboard of keys. No code is public, so that these are
    choices: Q' are `samples` image queries at equal distances and K' all keys; `spatial_width`
    frames to each side, `temporal_width` rows and columns to each side; threshold and widths; each
    sample of a batch decides by itself; text is attended to, and attends to all keys.
    """

    levels: ClassVar[tuple[Level, ...]] = ("attention",)
    reads_to_keep: ClassVar[bool] = False
    threshold: float = 0.9
    spatial_width: int = 1
    temporal_width: int = 4
    samples: int = 64

    def __post_init__(self) -> None:
        check_int("samples", self.samples, 1)
        for name in ("spatial_width", "temporal_width"):
            check_int(name, getattr(self, name), 0)
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold}")

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return ()

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        """As if all heads were textural, which computes most unless a mask is nearly everything.

        What heads are is decided on the device; masks of space and time have fewer pairs.
        """
        img = grid[0] * grid[1] * grid[2]
        tokens = img + text
        queried = min(self.samples, img) / (2 * tokens)  # one of attention's two products
        return PairShares((img * ((img + 1) // 2 + text) + text * tokens) / tokens**2 + queried)

    def out(self, kept: Kept) -> Tensor | None:
        """None: nothing is kept."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        """Keeps nothing."""

    def value(self, kept: Kept, at: Moment) -> Tensor:
        inputs = at.attention
        grid, tokens = inputs.layout.grid, inputs.k.shape[1]
        spatial = Near(grid, tokens, self.spatial_width, None)
        temporal = Near(grid, tokens, None, self.temporal_width)
        in_space, in_time = self._recalls(inputs, (spatial, temporal))
        is_spatial = (in_space >= self.threshold) & (in_space >= in_time)
        is_temporal = (in_time >= self.threshold) & ~is_spatial
        out = attend(inputs, Checkerboard(grid, tokens))
        for mask, heads in ((temporal, is_temporal), (spatial, is_spatial)):
            out = torch.where(heads[:, None, :, None], attend(inputs, mask), out)
        return out

    def _recalls(self, inputs: AttentionInputs, masks: tuple[Near, ...]) -> list[Tensor]:
        """The share `[B, H]` of sampled queries' weights that each mask has."""
        img = inputs.layout.img_len
        count = min(self.samples, img)
        queries = torch.arange(count, device=inputs.q.device) * img // count
        weights = scores(inputs, queries).softmax(-1)
        return [(weights * mask.keys(queries)).sum(-1).mean(-1) for mask in masks]
