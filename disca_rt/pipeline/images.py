"""Pictures that a video begins with: read from any common file, turned upright, cut to size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..family import VIDEO_10, VIDEO_15, Family
from .match import CropRule

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
LARGEST_PIXELS = 2**28  # a square of 16,384; larger ones are mistakes, or attacks
LANCZOS = Image.Resampling.LANCZOS
WHITE = (255, 255, 255, 255)


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """Read a picture as 8-bit RGB: turned as its EXIF says, 16 bits scaled, alpha over white.

    ValueError names a file that is no picture, a damaged one, or one with values of another kind.
    """
    if isinstance(source, Image.Image):
        return _upright("image", source)
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"image {path} is not a file")
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise ValueError(f"image {path} is {image.width}x{image.height}: too large")
            image.load()
            return _upright(f"image {path}", image)
    except UnidentifiedImageError as error:
        raise ValueError(f"image {path} is no picture; give a PNG, JPEG or WebP") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} is damaged ({error}); save it anew") from error


def _upright(name: str, image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BITS or image.mode == "I":
        return _from_whole_numbers(name, image).convert("RGB")
    if image.mode == "F":
        raise ValueError(f"{name} has floating-point values; save it as 8-bit RGB")
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, WHITE)
        image = Image.alpha_composite(over, image.convert("RGBA"))
    return image.convert("RGB")


def _from_whole_numbers(name: str, image: Image.Image) -> Image.Image:
    """Scale 16 bits to 8; Pillow alone would clip them."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError(f"{name} has values beyond 16 bits; save it as 8-bit RGB")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def fitted(
    image: Image.Image, height: int, width: int, rule: CropRule, family: Family
) -> Image.Image:
    """Resize and cut a picture to `height` x `width` as the program `rule` does for a model."""
    if image.size == (width, height):
        return image
    return FITS[rule, family](image, height, width)


def cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize by LANCZOS until the picture covers its place, and cut the middle out.

    Sides are rounded to the nearest pixel, as Tencent's code of 1.5 does.
    """
    factor = max(width / image.width, height / image.height)
    sides = round(image.width * factor), round(image.height * factor)
    left, top = round((sides[0] - width) / 2), round((sides[1] - height) / 2)
    return _middle(image.resize(sides, LANCZOS), left, top, height, width)


def _cover_floored(image: Image.Image, height: int, width: int) -> Image.Image:
    """Cover as diffusers does for 1.5: fractions are cut off, middles are put on each other."""
    wide, high = image.width * height // image.height, image.height * width // image.width
    sides = (wide, height) if width / height <= image.width / image.height else (width, high)
    left, top = sides[0] // 2 - width // 2, sides[1] // 2 - height // 2
    return _middle(image.resize(sides, LANCZOS), left, top, height, width)


def _stretch(image: Image.Image, height: int, width: int) -> Image.Image:
    """Stretch as diffusers does for 1.0, whatever that does to the shape."""
    return image.resize((width, height), LANCZOS)


def _short_side(image: Image.Image, height: int, width: int) -> Image.Image:
    """Fit the short sides, bilinearly, as Tencent's code of 1.0 does; what lacks is black.

    Its size is the one whose shape is nearest, so that little is cut or left black.
    """
    short, least = min(height, width), min(image.size)
    sides = [short if side == least else int(short * side / least) for side in image.size]
    resized = image.resize(tuple(sides), Image.Resampling.BILINEAR)
    left, top = (_offset(a, b) for a, b in zip(sides, (width, height), strict=True))
    return _middle(resized, left, top, height, width)


def _offset(side: int, wanted: int) -> int:
    """Where a middle of `wanted` pixels begins; negative where it is padded."""
    return round((side - wanted) / 2) if side >= wanted else -((wanted - side) // 2)


def _middle(image: Image.Image, left: int, top: int, height: int, width: int) -> Image.Image:
    return image.crop((left, top, left + width, top + height))


Fit = Callable[[Image.Image, int, int], Image.Image]
FITS: dict[tuple[CropRule, Family], Fit] = {
    ("disca", VIDEO_10.name): cover,
    ("disca", VIDEO_15.name): cover,
    ("diffusers", VIDEO_10.name): _stretch,
    ("diffusers", VIDEO_15.name): _cover_floored,
    ("official", VIDEO_10.name): _short_side,
    ("official", VIDEO_15.name): cover,
}


def to_video(image: Image.Image) -> Tensor:
    """Turn an RGB picture into a video of one frame `[1, 3, 1, H, W]` in [0, 1], fp32."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    return pixels.permute(2, 0, 1)[None, :, None].float() / 255
