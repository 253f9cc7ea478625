"""Sizes that image-to-video models were trained at, and which of them an image gets.

A bucket has about `base`² pixels, sides that are multiples of `stride`, and sides at most four
times each other. Which bucket is nearest differs between the three that choose one.
"""

from functools import cache
from typing import Literal, NamedTuple

from ..family import VIDEO_10, VIDEO_15, Family

Rule = Literal["nearest", "diffusers", "below"]
RULES: tuple[Rule, ...] = ("nearest", "diffusers", "below")
MAX_RATIO = 4.0
STRIDES: dict[Family, int] = {VIDEO_10.name: 32, VIDEO_15.name: 16}
# Side of the square of as many pixels, by the resolution's name.
BASES: dict[Family, dict[str, int]] = {
    VIDEO_10.name: {"360p": 480, "540p": 720, "720p": 960},
    VIDEO_15.name: {"360p": 480, "480p": 640, "720p": 960, "1080p": 1440},
}


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


@cache
def sizes(base: int, stride: int) -> tuple[Size, ...]:
    """All buckets, from the highest to the widest: most pixels that `base`² leaves room for."""
    patches = round((base / stride) ** 2)
    found, rows, columns = [], patches, 1
    while rows > 0:
        if max(rows, columns) <= MAX_RATIO * min(rows, columns):
            found.append(Size(rows * stride, columns * stride))
        if (columns + 1) * rows <= patches:
            columns += 1
        else:
            rows -= 1
    return tuple(found)


def bucket(height: int, width: int, base: int, stride: int, rule: Rule = "nearest") -> Size:
    """Bucket of an image of `height` and `width` pixels, by height over width.

    "nearest" is HunyuanVideo 1.5's own: the smallest difference of ratios. The others look on one
    side only, towards the square: "diffusers" takes an equal ratio too, and "below", that of
    HunyuanVideo 1.0's image-to-video, only where the image is not wider than high. Ratios of
    buckets have five decimals. ValueError for sides below 1 and another rule.
    """
    if min(height, width) < 1:
        raise ValueError(f"an image must have sides of at least 1, got {width}x{height}")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    ratio, found = height / width, sizes(base, stride)
    differences = [(round(each.height / each.width, 5) - ratio, each) for each in found]
    allowed = [pair for pair in differences if _is_allowed(pair[0], ratio, rule)]
    return min(allowed, key=lambda pair: abs(pair[0]))[1]


def _is_allowed(difference: float, ratio: float, rule: Rule) -> bool:
    if rule == "nearest":
        return True
    if ratio >= 1:
        return difference <= 0
    return difference > 0 or (rule == "diffusers" and difference == 0)
