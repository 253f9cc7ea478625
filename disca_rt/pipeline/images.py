"""Pictures that a video begins with: read from any common file, turned upright, cut to size."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .match import CropRule

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
LARGEST_PIXELS = 2**28  # a square of 16,384; larger ones are mistakes, or attacks
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


def cover(image: Image.Image, height: int, width: int, rule: CropRule = "official") -> Image.Image:
    """Resize a picture until it covers `height` x `width`, and cut its middle out.

    `rule` official does so by LANCZOS and rounds the resized sides to the nearest pixel, as
    Tencent's 1.5; diffusers cuts fractions off and pastes from the middle of both, as for 1.5.
    "short side" is Tencent's 1.0: bilinear, until the shorter sides are alike, where that covers.
    "stretch" is diffusers' 1.0: to both sides, and nothing is cut.
    """
    if image.size == (width, height):
        return image
    if rule == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    kind = Image.Resampling.LANCZOS
    factor = max(width / image.width, height / image.height)
    sides = round(image.width * factor), round(image.height * factor)
    if rule == "short side" and (found := _short_side(image, height, width)):
        kind, sides = Image.Resampling.BILINEAR, found
    if rule == "diffusers":
        wide, high = image.width * height // image.height, image.height * width // image.width
        sides = (wide, height) if width / height <= image.width / image.height else (width, high)
        left, top = sides[0] // 2 - width // 2, sides[1] // 2 - height // 2
    else:
        left, top = round((sides[0] - width) / 2), round((sides[1] - height) / 2)
    return image.resize(sides, kind).crop((left, top, left + width, top + height))


def _short_side(image: Image.Image, height: int, width: int) -> tuple[int, int] | None:
    """Sides of `image` once its shorter one is as long as the target's; None: they do not cover."""
    target, shorter = min(height, width), min(image.size)
    sides = tuple(int(target * side / shorter) for side in image.size)
    return sides if sides[0] >= width and sides[1] >= height else None


def to_video(image: Image.Image) -> Tensor:
    """Turn an RGB picture into a video of one frame `[1, 3, 1, H, W]` in [0, 1], fp32."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    return pixels.permute(2, 0, 1)[None, :, None].float() / 255
