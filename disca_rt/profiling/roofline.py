"""Roofline plot as SVG: rate by arithmetic intensity, both logarithmic, one dot per class.

A dot is filled for full steps and stages, and hollow for predicted steps. An op without matrix
products is placed by its pointwise operations, so that its distance to the slope is its fraction
of the copy bandwidth. Knows rows and ceilings; colours of text and lines are the page's variables.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from ..measure.ceilings import Ceilings
from ..units import rate_text
from .colours import colour
from .table import Row

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 96, 24, 20, 56
FONT = 12
CHARACTER = 7.2  # width of an average one
RADIUS = 7  # of a dot, its rim included
ONE_LABEL = 44  # dots of one class nearer than this share a label
PREFIXES = {0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}


class Dot(NamedTuple):
    """Place of a class in the plot: operations per byte, and per second."""

    row: Row
    intensity: float
    rate: float


class Box(NamedTuple):
    """Rectangle on the page, in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """True where the two overlap."""
        return not (
            self.right <= other.left
            or other.right <= self.left
            or self.bottom <= other.top
            or other.bottom <= self.top
        )


class Axes(NamedTuple):
    """Axes from 10^`x0` to 10^`x1` operations per byte, and from 10^`y0` to 10^`y1` per second."""

    x0: int
    x1: int
    y0: int
    y1: int

    def x(self, intensity: float) -> float:
        share = (math.log10(intensity) - self.x0) / (self.x1 - self.x0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, rate: float) -> float:
        share = (math.log10(rate) - self.y0) / (self.y1 - self.y0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def dots(rows: Sequence[Row]) -> list[Dot]:
    """Dots of the rows whose operations and bytes are known."""
    made = []
    for row in rows:
        intensity, operations = row.work.intensity, row.work.flops or row.work.pointwise
        if intensity is not None and row.busy_us > 0:
            made.append(Dot(row, intensity, operations / row.busy_us * 1e6))
    return made


def roofline_svg(rows: Sequence[Row], ceilings: Ceilings) -> str:
    """SVG element of the plot; colours of text and lines are CSS variables of its page."""
    shown = dots(rows)
    axes = _axes(shown, ceilings)
    corners = _corners(axes, ceilings)
    labels = _labels(axes, shown, list(_along(corners)))
    parts = [*_grid(axes), *_roof(corners, ceilings), *_dots(axes, shown), *labels]
    return (
        f'<svg class="roofline" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="roofline plot" font-size="{FONT}">{"".join(parts)}</svg>'
    )


def _axes(shown: Sequence[Dot], ceilings: Ceilings) -> Axes:
    ridge = ceilings.flops_per_s / ceilings.bytes_per_s
    xs = [math.log10(value) for value in (ridge, *(dot.intensity for dot in shown))]
    ys = [math.log10(value) for value in (ceilings.flops_per_s, *(dot.rate for dot in shown))]
    x0, x1 = math.floor(min(xs) - 0.2), math.ceil(max(xs) + 0.3)
    return Axes(x0, x1, math.floor(min(ys) - 0.2), math.ceil(max(ys) + 0.1))


def _grid(axes: Axes) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for power in range(axes.x0, axes.x1 + 1):
        x = axes.x(10.0**power)
        yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="var(--grid)"/>'
        yield _text(x, bottom + 18, f"{10.0**power:g}", "middle", "var(--faint)")
    for power in range(axes.y0, axes.y1 + 1):
        y = axes.y(10.0**power)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="var(--grid)"/>'
        yield _text(LEFT - 8, y + 4, _power_text(power), "end", "var(--faint)")
    middle = (LEFT + right) / 2
    yield _text(middle, HEIGHT - 10, "arithmetic intensity, FLOP per byte moved", "middle")


def _power_text(power: int) -> str:
    thousands = power // 3 * 3
    return f"{10 ** (power - thousands)} {PREFIXES.get(thousands, '?')}FLOP/s"


def _corners(axes: Axes, ceilings: Ceilings) -> list[tuple[float, float]]:
    """Corners of the roof: the slope of the copy bandwidth, then the products' rate."""
    ridge = ceilings.flops_per_s / ceilings.bytes_per_s
    start = max(10.0**axes.x0, 10.0**axes.y0 / ceilings.bytes_per_s)
    return [
        (axes.x(start), axes.y(start * ceilings.bytes_per_s)),
        (axes.x(ridge), axes.y(ceilings.flops_per_s)),
        (axes.x(10.0**axes.x1), axes.y(ceilings.flops_per_s)),
    ]


def _roof(corners: Sequence[tuple[float, float]], ceilings: Ceilings) -> Iterator[str]:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    yield f'<polyline points="{points}" fill="none" stroke="var(--ink)" stroke-width="2"/>'
    (x0, y0), (x1, y1), (x2, y2) = corners
    yield _text(x2 - 4, y2 - 6, rate_text(ceilings.flops_per_s, "FLOP/s"), "end")
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    x, y = x0 + 0.6 * (x1 - x0), y0 + 0.6 * (y1 - y0)
    turned = f'transform="rotate({angle:.1f} {x:.1f} {y:.1f})"'
    yield _text(x, y - 7, rate_text(ceilings.bytes_per_s, "B/s"), "start", more=turned)


def _along(corners: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """Boxes along the roof line and the text on it: the labels of dots are placed off them."""
    for (x0, y0), (x1, y1) in pairwise(corners):
        pieces = max(1, round(math.hypot(x1 - x0, y1 - y0) / 8))
        for i in range(pieces + 1):
            x, y = x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces
            yield Box(x - 4, y - 20, x + 4, y + 4)


def _dots(axes: Axes, shown: Sequence[Dot]) -> Iterator[str]:
    for dot in shown:
        own = colour(dot.row.class_name)
        fill = own if dot.row.kind == "full" or dot.row.is_stage else "var(--page)"
        x, y = axes.x(dot.intensity), axes.y(dot.rate)
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS - 1.5}" '
            f'fill="{fill}" stroke="{own}" stroke-width="2.5"><title>{_title(dot)}</title></circle>'
        )


def _title(dot: Dot) -> str:
    rate = rate_text(dot.rate, "FLOP/s")
    name = escape(dot.row.class_name)
    kind = dot.row.kind if dot.row.is_stage else f"{dot.row.kind} steps"
    return f"{name}, {kind}: {dot.intensity:,.2g} FLOP/B, {rate}"


def _labels(axes: Axes, shown: Sequence[Dot], roof: Sequence[Box]) -> Iterator[str]:
    """Labels of the dots, the largest share of time first; each as near as it meets nothing."""
    places = [(axes.x(dot.intensity), axes.y(dot.rate)) for dot in shown]
    taken = [*roof, *(Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in places)]
    labelled: list[tuple[str, float, float]] = []
    for dot, (x, y) in sorted(zip(shown, places, strict=True), key=lambda each: -each[0].row.share):
        name = dot.row.class_name
        if any(n == name and math.hypot(x - a, y - b) < ONE_LABEL for n, a, b in labelled):
            continue
        labelled.append((name, x, y))
        box = _free_box(x, y, len(name) * CHARACTER, taken)
        taken.append(box)
        yield from _label(name, x, y, box)


def _label(name: str, x: float, y: float, box: Box) -> Iterator[str]:
    at, anchor = (box.right, "end") if box.right < x else (box.left, "start")
    edge_x = min(max(x, box.left), box.right)
    edge_y = min(max(y, box.top), box.bottom)
    away = math.hypot(edge_x - x, edge_y - y)
    if away > 12:
        x, y = x + (edge_x - x) * RADIUS / away, y + (edge_y - y) * RADIUS / away
        yield (
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{edge_x:.1f}" y2="{edge_y:.1f}" '
            f'stroke="var(--faint)" stroke-width="0.8"/>'
        )
    yield _text(at, box.bottom - 4, name, anchor, more='class="halo"')


ANGLES = 0, 180, 30, -30, 150, -150, 60, -60, 90, -90, 120, -120  # degrees, as they are tried


def _free_box(x: float, y: float, width: float, taken: Sequence[Box]) -> Box:
    """Nearest box for a label that meets nothing inside the frame; else one right of the dot."""
    for distance in range(11, 200, 8):
        for angle in ANGLES:
            box = _box_at(x, y, width, distance, math.radians(angle))
            is_inside = box.left > LEFT and box.right < WIDTH - RIGHT
            is_inside = is_inside and box.top > TOP and box.bottom < HEIGHT - BOTTOM
            if is_inside and not any(box.meets(other) for other in taken):
                return box
    return _box_at(x, y, width, 11, 0.0)


def _box_at(x: float, y: float, width: float, distance: float, angle: float) -> Box:
    """Box of a label `distance` away from (x, y), beginning, ending or centred there."""
    cosine, sine = math.cos(angle), math.sin(angle)
    anchor_x, centre_y = x + cosine * distance, y + sine * distance
    left = anchor_x - width * (0.0 if cosine > 0.2 else 1.0 if cosine < -0.2 else 0.5)
    return Box(left, centre_y - 8, left + width, centre_y + 8)


def _text(
    x: float, y: float, text: str, anchor: str, fill: str = "var(--ink)", more: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" {more}>'
        f"{escape(text)}</text>"
    )
