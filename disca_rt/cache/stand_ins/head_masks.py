"""RainFusion (arXiv 2505.21036): each head attends in space, in time, or to every second key.

What a head is, is told from its queries in every step: nothing is kept.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.masks import Boxes, Span, boxes_of, numbers, share_of
from ...attention.protocol import AttentionInputs
from ...attention.some_keys import attend_within, scores
from ...attention.tiles import Grid, coordinates
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, PairShares, StandInDefaults, TensorSpec

PLACE_BITS = 10  # of a coordinate, the last of them a guard
MOST_PLACES = 1 << PLACE_BITS - 1
GUARDS = sum(1 << PLACE_BITS * (axis + 1) - 1 for axis in range(3))


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
        """Boxes of queries: one frame, or all of them; all places, or as many as are in reach."""
        text = numbers(range(self.img, self.tokens), device)
        sides = list(zip(self.grid, self._reaches, strict=True))
        lengths = 1, max(1, self.rows or 1), max(1, self.rows or 1)
        for box in product(*map(_cut, self.grid, self._reaches, lengths)):
            near = [_around(part, *side) for part, side in zip(box, sides, strict=True)]
            places = torch.cat([self._box(near, device), text])
            yield Span(self._box(box, device), places, not self.rows)

    def boxes(self, device: torch.device) -> Boxes | None:
        """Coordinates as three places of PLACE_BITS."""
        if not self.rows:
            return None
        if max(self.grid) > MOST_PLACES:
            raise ValueError(f"a grid must be at most {MOST_PLACES} long, got {self.grid}")
        text = (0, self.tokens - self.img)
        at, low, high = ([], [], [])
        for x, side, reach in zip(
            coordinates(self.grid, device), self.grid, self._reaches, strict=True
        ):
            x = F.pad(x, text)
            at.append(x)
            low.append(x * 0 if reach is None else (x - reach).clamp(min=0))
            high.append(x * 0 + side - 1 if reach is None else (x + reach).clamp(max=side - 1))
        return boxes_of(*map(_packed, (low, high, at)), self.img, GUARDS)

    @property
    def _reaches(self) -> tuple[int | None, ...]:
        return self.frames, self.rows, self.rows

    def _box(self, box: Sequence[range], device: torch.device) -> Tensor:
        """The tokens of a box of places; made without waiting for the device."""
        _, height, width = self.grid
        t, h, w = (numbers(each, device) for each in box)
        return (((t * height)[:, None] + h)[:, :, None] * width + w).flatten()


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

    def boxes(self, device: torch.device) -> None:
        """None: a query attends to all keys of its span."""

    def _is_on(self, device: torch.device) -> Tensor:
        t, h, w = coordinates(self.grid, device)
        return (t + h + w) % 2 == 0


def _cut(side: int, reach: int | None, length: int) -> list[range]:
    """A side in parts of `length`; in one where all is in reach (None)."""
    if reach is None:
        return [range(side)]
    return [range(first, min(first + length, side)) for first in range(0, side, length)]


def _around(part: range, side: int, reach: int | None) -> range:
    """The places of a side within `reach` of a part of it."""
    if reach is None:
        return range(side)
    return range(max(0, part.start - reach), min(side, part.stop + reach))


def _packed(coordinates: Sequence[Tensor]) -> Tensor:
    """Three coordinates as one number."""
    t, h, w = coordinates
    return ((t << 2 * PLACE_BITS) | (h << PLACE_BITS) | w).int()


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
    needs_kept: ClassVar[bool] = False
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
        """Largest share of pairs: which mask a head takes is decided on the device."""
        img = grid[0] * grid[1] * grid[2]
        queried = min(self.samples, img) / (2 * (img + text))  # one of attention's two products
        return PairShares(max(map(share_of, self._masks(grid, img + text))) + queried)

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
        kinds = (spatial, is_spatial), (temporal, is_temporal), (board, ~is_spatial & ~is_temporal)
        out = torch.empty_like(inputs.q)
        for mask, heads in kinds:
            attend_within(inputs, mask, heads, out)
        return out

    def _recalls(self, inputs: AttentionInputs, masks: tuple[Near, ...]) -> list[Tensor]:
        """The share `[B, H]` of sampled queries' weights that each mask has."""
        img = inputs.layout.img_len
        count = min(self.samples, img)
        queries = torch.arange(count, device=inputs.q.device) * img // count
        weights = scores(inputs, queries).softmax(-1)
        return [(weights * mask.keys(queries)).sum(-1).mean(-1) for mask in masks]
