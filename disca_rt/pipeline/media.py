"""Pictures for people: frames of a video as bytes, a contact sheet, a folder of PNGs.

Knows frames, not how they came. Small clips are enlarged by whole pixels, to be seen.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..atomic import whole
from ..errors import first_line

LARGEST_SIDE = 16_384  # of x264
SMALLEST_SIDE = 240  # pixels; smaller clips are enlarged to at least this
SHEET_COLUMNS = 8
SHEET_GAP = 4  # pixels of white between frames


def to_frames(video: Tensor) -> np.ndarray:
    """Turn a video `[3, T, H, W]` in [0, 1] into uint8 `[T, H, W, 3]`, enlarged where small.

    ValueError for another shape, and for values that are not finite: they would become black.
    """
    if not isinstance(video, Tensor) or not video.is_floating_point():
        kind = getattr(video, "dtype", type(video).__name__)
        raise ValueError(f"video must be a float tensor with values in [0, 1], got {kind}")
    if video.ndim != 4 or video.shape[0] != 3 or not video.numel():
        raise ValueError(f"video must be [3, T, H, W], one sample, got {list(video.shape)}")
    if not torch.isfinite(video).all():
        raise ValueError("video has values that are not finite; sample in another dtype")
    frames = (video.detach().float().clamp(0, 1) * 255).round().byte().cpu()
    frames = frames.permute(1, 2, 3, 0).numpy()
    factor = enlargement(*frames.shape[1:3])
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def enlargement(height: int, width: int) -> int:
    """Factor by which `to_frames` enlarges each side, as far as an mp4 may be large."""
    return max(1, min(-(-SMALLEST_SIDE // min(height, width)), LARGEST_SIDE // max(height, width)))


def check_frames(frames: np.ndarray) -> None:
    """Raise ValueError for what are not uint8 frames `[T, H, W, 3]`, at least one."""
    if frames.ndim != 4 or frames.shape[3] != 3 or not frames.size or frames.dtype != np.uint8:
        shape = list(frames.shape)
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {shape}")


def check_sides(height: int, width: int) -> None:
    """Raise ValueError for sides in pixels that H.264 with halved chroma cannot have."""
    if height % 2 or width % 2:
        raise ValueError(f"sides must be even for an mp4, got {width}x{height}")
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"sides of an mp4 must be at most {LARGEST_SIDE}, got {width}x{height}")


def write_contact_sheet(path: str | Path, frames: np.ndarray) -> None:
    """Write a PNG of evenly chosen frames `[T, H, W, 3]`, at most eight, side by side."""
    check_frames(frames)
    with SheetWriter(path, len(frames)) as sheet:
        sheet.write(frames)


class SheetWriter:
    """Context that writes a PNG of evenly chosen frames of a video of `count`, at most eight.

    The file appears whole at the end, or not at all where something went wrong within.
    """

    def __init__(self, path: str | Path, count: int) -> None:
        chosen = np.linspace(0, count - 1, min(count, SHEET_COLUMNS)).round().astype(int)
        self._path, self._wanted = Path(path), set(chosen.tolist())
        self._seen, self._kept = 0, []

    def __enter__(self) -> "SheetWriter":
        return self

    def write(self, frames: np.ndarray) -> None:
        """Take the next uint8 frames `[t, H, W, 3]`."""
        check_frames(frames)
        for index, frame in enumerate(frames, self._seen):
            if index in self._wanted:
                self._kept.append(frame.copy())  # a view would keep all its neighbours
        self._seen += len(frames)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None or not self._kept:
            return
        gap = np.full((self._kept[0].shape[0], SHEET_GAP, 3), 255, np.uint8)
        row = [part for frame in self._kept for part in (frame, gap)][:-1]
        with whole(self._path) as partial:
            _save_png(np.concatenate(row, axis=1), partial, self._path)


class FrameFolder:
    """Context that writes frames as frame-00000.png, frame-00001.png and so on into a new folder.

    The folder appears whole at the end, or not at all. ValueError where there are files in it.
    """

    def __init__(self, path: Path) -> None:
        check_new_folder(path)
        self._path, self._seen = path, 0

    def __enter__(self) -> "FrameFolder":
        with ExitStack() as stack:  # undone where the folder cannot be begun
            self._partial = stack.enter_context(whole(self._path))
            self._partial.mkdir()
            self._stack = stack.pop_all()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Write the next uint8 frames `[t, H, W, 3]`."""
        check_frames(frames)
        for frame in frames:
            name = f"frame-{self._seen:05d}.png"
            _save_png(frame, self._partial / name, self._path / name)
            self._seen += 1

    def __exit__(self, *exception: object) -> bool | None:
        return self._stack.__exit__(*exception)


def check_new_folder(path: Path) -> None:
    """Raise ValueError for a folder of frames that exists and has something in it, or a file."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"the folder of frames is a file: {path}; name a new folder")
    if path.is_dir() and (held := sum(1 for _ in path.iterdir())):
        raise ValueError(
            f"the folder of frames is not empty: {path} has {held} entries; name a new one"
        )


def _save_png(frame: np.ndarray, partial: Path, path: Path) -> None:
    try:
        Image.fromarray(frame).save(partial, format="PNG")
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or first_line(error)}") from error
