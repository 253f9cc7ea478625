"""Video for people: an mp4 and a contact sheet. Knows frames, not how they came.

Small clips are enlarged by whole pixels, to be seen.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

LARGEST_SIDE = 16_384  # of x264
SMALLEST_SIDE = 240  # pixels; smaller clips are enlarged to at least this
SHEET_COLUMNS = 8
SHEET_GAP = 4  # pixels of white between frames


def to_frames(video: Tensor) -> np.ndarray:
    """Turn a video `[3, T, H, W]` in [0, 1] into uint8 `[T, H, W, 3]`, enlarged where small.

    ValueError for another shape, and for values that are not finite: they would become black.
    """
    if video.ndim != 4 or video.shape[0] != 3:
        raise ValueError(f"video must be [3, T, H, W], one sample, got {list(video.shape)}")
    if not torch.isfinite(video).all():
        raise ValueError("video has values that are not finite; sample in another dtype")
    frames = (video.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    frames = frames.permute(1, 2, 3, 0).numpy()
    factor = enlargement(*frames.shape[1:3])
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def enlargement(height: int, width: int) -> int:
    """Factor by which `to_frames` enlarges each side."""
    return -(-SMALLEST_SIDE // min(height, width))


def write_contact_sheet(path: Path, frames: np.ndarray) -> None:
    """Write a PNG of evenly chosen frames `[T, H, W, 3]`, at most eight, side by side."""
    count = min(len(frames), SHEET_COLUMNS)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    gap = np.full((frames.shape[1], SHEET_GAP, 3), 255, np.uint8)
    row = [part for frame in chosen for part in (frame, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1)).save(path, format="PNG")


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write uint8 `frames [T, H, W, 3]` as H.264; ValueError for sides that it cannot have."""
    if frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0 or frames.dtype != np.uint8:
        shape = list(frames.shape)
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {shape}")
    check_sides(*frames.shape[1:3])
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "12"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            packets = stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
            container.mux(packets)
        container.mux(stream.encode())


def check_sides(height: int, width: int) -> None:
    """Raise ValueError for sides in pixels that H.264 with halved chroma cannot have."""
    if height % 2 or width % 2:
        raise ValueError(f"sides must be even for an mp4, got {width}x{height}")
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"sides of an mp4 must be at most {LARGEST_SIDE}, got {width}x{height}")
