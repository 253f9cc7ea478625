"""Tile grids: where tiles of latents begin and end, and how far neighbours overlap. Pure numbers.

A tiling is written in pixels and frames, as the authors write it; a grid is in latents. A tile that
is not the first in time has one latent more than its length says, whose only frame is dropped: the
first latent of whatever is decoded gives one frame, and the others four.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from ..family import VIDEO_10, VIDEO_15, Family

GIB = 1 << 30
ROOMY = 21 * GIB  # above which HunyuanVideo 1.5 takes its larger tiles


class Steps(NamedTuple):
    """Length of a tile along an axis and the way to the next one, in pixels or in frames."""

    tile: int
    stride: int

    def __str__(self) -> str:
        return f"{self.tile}x{self.stride}"


@dataclass(frozen=True)
class Tiling:
    """Tiles of `side` pixels along height and width, and of `time` frames; None: not tiled."""

    side: Steps | None = None
    time: Steps | None = None

    def __str__(self) -> str:
        side = f"{self.side} px" if self.side else "whole frames"
        return f"{side}, {self.time} frames" if self.time else f"{side}, all frames"


class Span(NamedTuple):
    """Latents from `start` up to, and without, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis, in latents: each gives its first `stride` to the result, the last all.

    The first `blend` latents of each tile but the first are mixed with the end of the one before.
    """

    spans: tuple[Span, ...]
    stride: int
    blend: int

    @property
    def length(self) -> int:
        """Latents along the whole axis."""
        return self.spans[-1].stop


@dataclass(frozen=True)
class TileGrid:
    """Tiles of latents [T, H, W]: every combination of a span in time, of a row and of a column."""

    time: Axis
    rows: Axis
    columns: Axis

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.time.spans) * len(self.rows.spans) * len(self.columns.spans)

    @property
    def largest(self) -> tuple[int, int, int]:
        """Size (T, H, W) in latents of the largest tile."""
        axes = (self.time, self.rows, self.columns)
        t, h, w = (max(span.length for span in axis.spans) for axis in axes)
        return t, h, w


OFFICIAL_15 = Tiling(Steps(256, 224))
NAMED: dict[tuple[str, Family], Tiling] = {
    ("official", VIDEO_10.name): Tiling(Steps(256, 192), Steps(64, 48)),
    ("official", VIDEO_15.name): OFFICIAL_15,
    ("diffusers", VIDEO_10.name): Tiling(Steps(256, 192), Steps(16, 12)),
    ("diffusers", VIDEO_15.name): Tiling(Steps(256, 192)),
    ("none", VIDEO_10.name): Tiling(),
    ("none", VIDEO_15.name): Tiling(),
}
NAMES = tuple(dict.fromkeys(name for name, _ in NAMED))
# What is tried in this order where the official tiles do not fit.
SMALLER: dict[Family, tuple[Tiling, ...]] = {
    VIDEO_10.name: (
        Tiling(Steps(256, 192), Steps(32, 24)),
        Tiling(Steps(192, 128), Steps(32, 24)),
        Tiling(Steps(128, 96), Steps(32, 24)),
        Tiling(Steps(128, 96), Steps(16, 12)),
        Tiling(Steps(64, 48), Steps(16, 12)),
    ),
    VIDEO_15.name: (Tiling(Steps(128, 96)), Tiling(Steps(64, 48))),  # the first is official too
}


def parse_tiling(text: str, family: Family) -> Tiling:
    """Read "official", "diffusers", "none", "256x192", "256x192,64x48" or "none,64x48".

    The first pair is the tile and its stride in pixels, the second in frames. ValueError names
    what is wrong.
    """
    if text in NAMES:
        return NAMED[text, family]
    words = [word.strip() for word in text.split(",")]
    if len(words) > 2:
        raise ValueError(_unreadable(text))
    steps = [None if word == "none" else _steps(word, text) for word in words]
    return Tiling(*steps)


def _steps(word: str, text: str) -> Steps:
    if not (found := re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", word)):
        raise ValueError(_unreadable(text))
    steps = Steps(*map(int, found.groups()))
    if not 0 < steps.stride <= steps.tile:
        raise ValueError(
            f"the stride of tiles must be above 0 and at most the tile, got {word} in {text!r}; "
            "256x192 are tiles of 256 that begin every 192"
        )
    return steps


def _unreadable(text: str) -> str:
    return (
        f"tiles must be {', '.join(NAMES)} or TILExSTRIDE in pixels, then in frames, such as "
        f"256x192,64x48, got {text!r}"
    )


def make_grid(
    tiling: Tiling, size: tuple[int, int, int], time_factor: int, side_factor: int
) -> TileGrid:
    """Grid of latents of `size` (T, H, W); the factors are frames and pixels per latent.

    An axis is cut only where a tile is smaller; height and width are cut both where one is.
    ValueError where a tile or a stride is no whole number of latents.
    """
    side = _in_latents("side", tiling.side, side_factor)
    time = _in_latents("time", tiling.time, time_factor)
    frames, height, width = size
    if side is not None and max(height, width) <= side.tile:
        side = None
    return TileGrid(_time_axis(time, frames), _side_axis(side, height), _side_axis(side, width))


def _in_latents(axis: str, steps: Steps | None, factor: int) -> Steps | None:
    if steps is None:
        return None
    if steps.tile % factor or steps.stride % factor:
        unit = "pixels" if axis == "side" else "frames"
        raise ValueError(
            f"tiles of {steps} {unit} are no whole latents; tile and stride must be multiples of "
            f"{factor}"
        )
    return Steps(steps.tile // factor, steps.stride // factor)


def _side_axis(steps: Steps | None, length: int) -> Axis:
    if steps is None:
        return Axis((Span(0, length),), length, 0)
    starts = range(0, length, steps.stride)
    spans = tuple(Span(start, min(start + steps.tile, length)) for start in starts)
    return Axis(spans, steps.stride, steps.tile - steps.stride)


def _time_axis(steps: Steps | None, length: int) -> Axis:
    if steps is None or length <= steps.tile:
        return Axis((Span(0, length),), length, 0)
    # A last tile of one latent would give no frame: its only one is dropped.
    starts = [start for start in range(0, length, steps.stride) if start < length - 1]
    spans = tuple(Span(start, min(start + steps.tile + 1, length)) for start in starts)
    return Axis(spans, steps.stride, steps.tile - steps.stride)
