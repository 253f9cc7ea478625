"""Masks of what an edit makes anew: read from pictures and videos, and turned into tokens.

Knows no models: sizes are given.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..cache.token_mask import TokenMask
from ..errors import first_line

if TYPE_CHECKING:
    import numpy as np

WHITE = 128  # of 255: pixels of at least this grey are made anew
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def read_mask(source: str | Path) -> Tensor:
    """Read a mask as bool `[F, H, W]`, true where it is white; of a picture F is 1.

    `source` is a picture, a video, or a folder of frames, whose names give their order. ValueError
    names what cannot be read.
    """
    import numpy as np  # a package that a bench does without

    path = Path(source)
    if path.is_dir():
        frames = sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURES)
        if not frames:
            raise ValueError(f"mask {path} is a folder without pictures; give its frames as PNGs")
        grey = [_of_picture(each) for each in frames]
    elif not path.is_file():
        raise ValueError(f"mask {path} is neither a file nor a folder of frames")
    else:
        grey = [_of_picture(path)] if path.suffix.lower() in PICTURES else _of_video(path)
    sizes = {each.shape for each in grey}
    if len(sizes) > 1:
        (height, width), (high, wide) = sorted(sizes)[:2]
        raise ValueError(f"mask {path} has frames of {width}x{height} and of {wide}x{high}")
    return torch.from_numpy(np.stack(grey) >= WHITE)


def _of_picture(path: Path) -> "np.ndarray":
    import numpy as np

    from .images import read_image

    try:
        return np.asarray(read_image(path).convert("L"))
    except ValueError as error:
        raise ValueError(f"mask: {error}") from error


def _of_video(path: Path) -> "list[np.ndarray]":
    import av

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(
            f"mask {path} is no picture and no video ({first_line(error)}); give a PNG, an mp4 or "
            "a folder of frames"
        ) from error
    if not frames:
        raise ValueError(f"mask {path} has no frames")
    return frames


def token_mask(
    white: Tensor,
    size: tuple[int, int, int],
    latents: tuple[int, int, int],
    patch: tuple[int, int, int],
    *,
    lost_frames: int = 0,
    grow: int = 0,
) -> TokenMask:
    """Tokens that a mask bool `[F, H, W]` or `[H, W]` touches, and `grow` more on each side.

    `size` are the frames, height and width that `latents` (T, H, W) decode to, of which the first
    `lost_frames` are no part of the video; `patch` are a token's latents. The mask may be as large
    as small videos are written, every pixel k times k, and one frame holds for all. It grows in
    height and width, not in time. ValueError for another size, and where nothing is white.
    """
    white = _of_size(white if white.ndim == 3 else white[None], size, lost_frames)
    if not white.any():
        raise ValueError("mask marks nothing: white is what is made anew; paint it white")
    cells = _pooled(_by_latent_frame(white, latents[0]), latents)
    tokens = tuple(side // p for side, p in zip(latents, patch, strict=True))
    chosen = _pooled(cells, tokens)
    if grow:
        chosen = max_pool2d(chosen.float(), 2 * grow + 1, stride=1, padding=grow) > 0
    return TokenMask.of(chosen)


def _of_size(white: Tensor, size: tuple[int, int, int], lost_frames: int) -> Tensor:
    """The mask `[F, H, W]` of `size`, the lost frames in front."""
    frames, height, width = size[0] - lost_frames, *size[1:]
    got = tuple(white.shape)
    factor = max(1, got[1] // height)
    if got[0] not in (1, frames) or got[1:] != (factor * height, factor * width):
        raise ValueError(
            f"mask must be {width}x{height} pixels and of 1 or {frames} frames, as the video, got "
            f"{got[2]}x{got[1]} and {got[0]}"
        )
    white = _pooled(white, (got[0], height, width)).expand(frames, -1, -1)
    return torch.cat([white.new_zeros(lost_frames, height, width), white])


def _by_latent_frame(white: Tensor, frames: int) -> Tensor:
    """The mask of each latent frame: of the first pixel frame, then of as many for each."""
    each = 1 if frames == 1 else (len(white) - 1) // (frames - 1)
    front = white.new_zeros(each * frames - len(white), *white.shape[1:])
    return _pooled(torch.cat([front, white]), (frames, *white.shape[1:]))


def _pooled(chosen: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`chosen` on a coarser grid of `shape`: true where any of a cell is."""
    for dim, size in enumerate(shape):
        chosen = chosen.unflatten(dim, (size, -1)).any(dim + 1)
    return chosen
