"""Writing video for people: an mp4 and a contact sheet. Knows frames, not how they came.

Small clips are enlarged by whole pixels, to be seen.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from torch import Tensor

SMALLEST_SIDE = 240  # pixels; smaller clips are enlarged to at least this
SHEET_COLUMNS = 8
SHEET_GAP = 4  # pixels of white between frames


def to_frames(video: Tensor) -> np.ndarray:
    """`[3, T, H, W]` in [0, 1] -> uint8 `[T, H, W, 3]`, enlarged where it is small."""
    frames = (video.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    frames = frames.permute(1, 2, 3, 0).numpy()
    factor = -(-SMALLEST_SIDE // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def write_contact_sheet(path: Path, frames: np.ndarray) -> None:
    """A PNG of evenly chosen frames `[T, H, W, 3]`, at most eight, side by side."""
    count = min(len(frames), SHEET_COLUMNS)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    gap = np.full((frames.shape[1], SHEET_GAP, 3), 255, np.uint8)
    row = [part for frame in chosen for part in (frame, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1)).save(path, format="PNG")


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    """H.264 of uint8 `frames [T, H, W, 3]`; both sides must be even."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "12"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in frames:
            packets = stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
            container.mux(packets)
        container.mux(stream.encode())
