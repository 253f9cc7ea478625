"""Draws scenes of the toy world: flat shapes moving at constant velocity, anti-aliased.

Centres lie on a grid of 2 pixels and move by one cell per frame, like sprites, away from the side
they come from: a model small enough to be trained on two CPU cores then learns sharp shapes instead
of sub-pixel blur, and which way is left. (From anywhere, a direction shows only in position times
frame times word, and the model had the axis of a motion always right and its sign by chance.)

Every shape is a signed distance function (negative inside, in pixels) and a pixel's coverage is
clamp(0.5 - distance, 0, 1). This module knows the geometry and the palette; it knows nothing
about prompts' text, the codec or the model.
"""

import math
from collections.abc import Sequence

import torch

from .prompts import BACKGROUNDS, SHAPES, SIZES, Scene

FRAMES, HEIGHT, WIDTH = 5, 24, 32

COLOUR_RGB = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (60, 90, 240),
    "yellow": (240, 220, 50),
    "purple": (170, 60, 200),
    "cyan": (60, 210, 220),
    "white": (240, 240, 240),
}
BACKGROUND_RGB = {
    "black": (15, 15, 15),
    "gray": (110, 110, 110),
    "brown": (95, 60, 30),
    "navy": (15, 20, 70),
}
RADIUS = {"small": 3.5, "large": 6.0}  # pixels
DIRECTION = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
GRID = 2  # pixels; every centre is a multiple of it, and it is the speed per frame
MARGIN = 0.2  # pixels, at least, between a shape and the border

# Shapes in units of the radius; areas 3.14, 3.24, 2.0 and 2.2 radius^2.
SQUARE_HALF_SIDE = 0.9
TRIANGLE_INRADIUS = 0.62
CROSS_REACH, CROSS_HALF_WIDTH = 1.0, 1.0 / 3.0

# (left, right, up, down) reach of each shape from its centre, in units of the radius.
_TRIANGLE_HALF_BASE = math.sqrt(3.0) * TRIANGLE_INRADIUS
REACH = {
    "circle": (1.0, 1.0, 1.0, 1.0),
    "square": (SQUARE_HALF_SIDE,) * 4,
    "triangle": (
        _TRIANGLE_HALF_BASE,
        _TRIANGLE_HALF_BASE,
        2 * TRIANGLE_INRADIUS,
        TRIANGLE_INRADIUS,
    ),
    "cross": (CROSS_REACH,) * 4,
}


def render(scenes: Sequence[Scene], generator: torch.Generator) -> torch.Tensor:
    """Draw one clip per scene: [B, 3, FRAMES, HEIGHT, WIDTH] float32 RGB in [0, 1].

    Each clip takes 6 uniform numbers from the generator, always in this order: size, background,
    then start x and start y of the first object and of the second. A number is drawn even where
    the scene leaves it no choice, so a clip never depends on its neighbours' scenes.
    """
    draws = torch.rand(len(scenes), 6, generator=generator)
    video = _background(scenes, draws[:, 1])[:, :, None, None, None].expand(
        -1, -1, FRAMES, HEIGHT, WIDTH
    )
    for position in range(max((len(scene.objects) for scene in scenes), default=0)):
        uniform = draws[:, 2 + 2 * position : 4 + 2 * position]
        video = _draw_object(video, scenes, position, draws[:, 0], uniform)
    return video.contiguous()


def coverage(
    shapes: torch.Tensor,
    radius: torch.Tensor,
    centre_x: torch.Tensor,
    centre_y: torch.Tensor,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> torch.Tensor:
    """Compute the share of each pixel that a shape covers.

    shapes [N] int64 indices into SHAPES, radius [N] and centres [N, T] in pixels (a pixel's own
    centre is at +0.5, y grows downwards) give [N, T, height, width] in [0, 1].
    """
    x = torch.arange(width) + 0.5 - centre_x[..., None]
    y = torch.arange(height) + 0.5 - centre_y[..., None]
    size = (len(shapes), centre_x.shape[1], height, width)
    covered = torch.empty(size, dtype=centre_x.dtype)
    for index, shape in enumerate(SHAPES):
        chosen = shapes == index
        if chosen.any():
            distance = _DISTANCES[shape](
                x[chosen][:, :, None, :], y[chosen][:, :, :, None], radius[chosen, None, None, None]
            )
            covered[chosen] = (0.5 - distance).clamp(0.0, 1.0)
    return covered


def _circle(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return torch.sqrt(x * x + y * y) - radius


def _square(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return torch.maximum(x.abs(), y.abs()) - SQUARE_HALF_SIDE * radius


def _triangle(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Signed distance to an equilateral triangle that points up, its centroid at the origin."""
    side = x.abs() * (math.sqrt(3.0) / 2) - y / 2
    return torch.maximum(side, y) - TRIANGLE_INRADIUS * radius


def _cross(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    long, short = CROSS_REACH * radius, CROSS_HALF_WIDTH * radius
    across = torch.maximum(x.abs() - long, y.abs() - short)
    upright = torch.maximum(x.abs() - short, y.abs() - long)
    return torch.minimum(across, upright)


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross}


def _rgb(values: Sequence[tuple[int, int, int]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32) / 255.0


def _pick(table: Sequence[str], uniform: float) -> str:
    return table[int(uniform * len(table))]


def _background(scenes: Sequence[Scene], uniform: torch.Tensor) -> torch.Tensor:
    """Choose background colours [B, 3], at random where the scene names none."""
    names = (
        scene.background or _pick(BACKGROUNDS, draw)
        for scene, draw in zip(scenes, uniform.tolist(), strict=True)
    )
    return _rgb([BACKGROUND_RGB[name] for name in names]).reshape(-1, 3)


def _radius(scene: Scene, uniform: float) -> float:
    if len(scene.objects) == 2:
        return RADIUS["small"]
    return RADIUS[scene.objects[0].size or _pick(SIZES, uniform)]


def _draw_object(
    video: torch.Tensor,
    scenes: Sequence[Scene],
    position: int,
    size_uniform: torch.Tensor,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """Paint object number `position` of the scenes that have one over `video`."""
    rows = [row for row, scene in enumerate(scenes) if len(scene.objects) > position]
    chosen = [scenes[row] for row in rows]
    specs = [scene.objects[position] for scene in chosen]
    radius = torch.tensor(
        [_radius(s, u) for s, u in zip(chosen, size_uniform[rows].tolist(), strict=True)]
    )
    centre_x, centre_y = _paths(chosen, position, radius, uniform[rows])
    shapes = torch.tensor([SHAPES.index(spec.shape) for spec in specs])
    alpha = coverage(shapes, radius, centre_x, centre_y)[:, None]
    paint = _rgb([COLOUR_RGB[spec.colour] for spec in specs])[:, :, None, None, None]
    painted = video.clone()
    painted[rows] = torch.lerp(video[rows], paint.expand_as(video[rows]), alpha)
    return painted


def _paths(
    scenes: Sequence[Scene], position: int, radius: torch.Tensor, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose paths inside the frame, or its half: centres x and y, each [N, FRAMES] pixels."""
    specs = [scene.objects[position] for scene in scenes]
    doubled = torch.tensor([len(scene.objects) == 2 for scene in scenes])
    reach = torch.tensor([REACH[spec.shape] for spec in specs]) * radius[:, None]
    direction = torch.tensor([DIRECTION[spec.motion] for spec in specs], dtype=torch.float32)
    travel = direction * GRID * (FRAMES - 1)
    left = torch.where(doubled, position * WIDTH / 2, 0.0)
    right = torch.where(doubled, left + WIDTH / 2, float(WIDTH))
    top, bottom = torch.zeros_like(left), torch.full_like(left, HEIGHT)
    time = torch.linspace(0.0, 1.0, FRAMES)
    start_x = _start(left + reach[:, 0], right - reach[:, 1], travel[:, 0], uniform[:, 0])
    start_y = _start(top + reach[:, 2], bottom - reach[:, 3], travel[:, 1], uniform[:, 1])
    centre_x = start_x[:, None] + travel[:, :1] * time
    centre_y = start_y[:, None] + travel[:, 1:] * time
    return centre_x, centre_y


def _start(
    low: torch.Tensor, high: torch.Tensor, travel: torch.Tensor, uniform: torch.Tensor
) -> torch.Tensor:
    """Choose grid points such that they and they + travel are MARGIN inside of low and high.

    Along its motion an object begins at the side that it comes from. All are [N] in pixels.
    """
    first = ((low + MARGIN - travel.clamp(max=0.0)) / GRID).ceil()
    last = ((high - MARGIN - travel.clamp(min=0.0)) / GRID).floor()
    anywhere = first + (uniform * (last - first + 1)).floor()
    return torch.where(travel > 0, first, torch.where(travel < 0, last, anywhere)) * GRID
