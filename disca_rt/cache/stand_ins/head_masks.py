"""RainFusion (arXiv 2505.21036): each head attends in space, in time, or to every second key.

What a head is, is told from its queries in every step: nothing is kept.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...attention.masks import Span, attend_within, numbers, scores, share_of
from ...attention.protocol import AttentionInputs
from ...attention.tiles import Grid, coordinates
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, PairShares, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class Near:
    """Image keys near an image query: `frames` before and after it, `rows` above and below.

    `rows` are also columns to both sides; None: all. Text goes with everything.
    """

    grid: Grid
    tokens: int
    frames: int | None
    rows: int | None

    @property
    def img(self) -> int:
        return math.prod(self.grid)

    def keys(self, queries: Tensor, places: Tensor | None = None) -> Tensor:
        img = self.img
        if places is None:
            places = torch.arange(self.tokens, device=queries.device)
        found = ((places >= img) | (queries >= img)[:, None]).clone()
        near, reaches = torch.ones_like(found), (self.frames, self.rows, self.rows)
        for x, reach in zip(coordinates(self.grid, queries.device), reaches, strict=True):
            if reach is not None:
                of_queries, of_keys = (x[each.clamp(max=img - 1)] for each in (queries, places))
                near &= (of_queries[:, None] - of_keys).abs() <= reach
        return (found | near)[None, None]

    def spans(self, device: torch.device) -> Iterator[Span]:
        """Queries of one frame, of one row in all frames, or of one row of one frame."""
        text = numbers(range(self.img, self.tokens), device)
        frames, rows, _ = self.grid
        for t in _middles(self.frames, frames):
            for h in _middles(self.rows, rows):
                queries = self._box(_around(t, 0, frames), _around(h, 0, rows), device)
                near = _around(t, self.frames, frames), _around(h, self.rows, rows)
                places = torch.cat([self._box(*near, device), text])
                yield Span(queries, places, self.rows is None)

    def _box(self, frames: range, rows: range, device: torch.device) -> Tensor:
        """The tokens of some rows of some frames; made without waiting for the device."""
        _, height, width = self.grid
        first = numbers(frames, device)[:, None] * height * width
        return (first + numbers(range(rows.start * width, rows.stop * width), device)).flatten()


@dataclass(frozen=True)
class Checkerboard:
    """Every second image key, as a checkerboard in (t, h, w); text goes with everything."""

    grid: Grid
    tokens: int

    @property
    def img(self) -> int:
        return math.prod(self.grid)

    def keys(self, queries: Tensor, places: Tensor | None = None) -> Tensor:
        found = queries.new_ones(len(queries), self.tokens, dtype=torch.bool)
        found[:, : self.img] = self._is_on(queries.device)
        found |= (queries >= self.img)[:, None]
        return (found if places is None else found[:, places])[None, None]

    def spans(self, device: torch.device) -> Iterator[Span]:
        text = numbers(range(self.img, self.tokens), device)
        count = (self.img + 1) // 2  # known here, so that nothing waits for the device
        on = self._is_on(device).byte().argsort(descending=True, stable=True)[:count]
        places = torch.cat([on, text])
        yield Span(numbers(range(self.img), device), places, True)

    def _is_on(self, device: torch.device) -> Tensor:
        t, h, w = coordinates(self.grid, device)
        return (t + h + w) % 2 == 0


def _middles(reach: int | None, side: int) -> Sequence[int | None]:
    """Places of a side around which a span lies: each of them, or None where all is in reach."""
    return [None] if reach is None else range(side)


def _around(middle: int | None, reach: int | None, side: int) -> range:
    """The places of a side within `reach` of `middle`."""
    if middle is None or reach is None:
        return range(side)
    return range(max(0, middle - reach), min(side, middle + reach + 1))


@dataclass(frozen=True)
class HeadMasks(StandInDefaults):
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
        """All three masks' of all heads: which one a head takes is decided on the device."""
        img = grid[0] * grid[1] * grid[2]
        queried = min(self.samples, img) / (2 * (img + text))  # one of attention's two products
        return PairShares(sum(map(share_of, self._masks(grid, img + text))) + queried)

    def _masks(self, grid: Grid, tokens: int) -> tuple[Near, Near, Checkerboard]:
        """Masks of space, of time, and of neither."""
        spatial = Near(grid, tokens, self.spatial_width, None)
        temporal = Near(grid, tokens, None, self.temporal_width)
        return spatial, temporal, Checkerboard(grid, tokens)

    def out(self, kept: Kept) -> Tensor | None:
        """None: nothing is kept."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        """Keeps nothing."""

    def value(self, kept: Kept, at: Moment) -> Tensor:
        inputs = at.attention
        spatial, temporal, board = self._masks(inputs.layout.grid, inputs.k.shape[1])
        in_space, in_time = self._recalls(inputs, (spatial, temporal))
        is_spatial = (in_space >= self.threshold) & (in_space >= in_time)
        is_temporal = (in_time >= self.threshold) & ~is_spatial
        out = attend_within(inputs, board)
        for mask, heads in ((temporal, is_temporal), (spatial, is_spatial)):
            out = torch.where(heads[:, None, :, None], attend_within(inputs, mask), out)
        return out

    def _recalls(self, inputs: AttentionInputs, masks: tuple[Near, ...]) -> list[Tensor]:
        """The share `[B, H]` of sampled queries' weights that each mask has."""
        img = inputs.layout.img_len
        count = min(self.samples, img)
        queries = torch.arange(count, device=inputs.q.device) * img // count
        weights = scores(inputs, queries).softmax(-1)
        return [(weights * mask.keys(queries)).sum(-1).mean(-1) for mask in masks]
