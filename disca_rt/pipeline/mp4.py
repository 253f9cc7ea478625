"""Video files: frames become H.264 in an mp4 as they arrive. Knows frames, not how they came.

Colours are BT.709 in limited range, really converted and tagged so: without tags players guess, and
without a matrix named swscale takes BT.601's, which shifts saturated colours by up to 40 levels.
"""

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from ..atomic import whole
from ..errors import first_line
from .media import check_frames, check_sides

MAX_FPS = 240
CODEC = "libx264"
BT_709 = 1  # in H.264's tables of primaries, of transfer and of matrices alike
LIMITED = 1  # luma from 16 to 235


def write_mp4(path: str | Path, frames: np.ndarray, fps: float) -> None:
    """Write uint8 `frames [T, H, W, 3]` as H.264; ValueError for sides that it cannot have."""
    check_frames(frames)
    with Mp4Writer(path, *frames.shape[1:3], fps=fps) as video:
        video.write(frames)


class Mp4Writer:
    """Context that writes frames of `height` and `width` pixels as H.264 while they arrive.

    The file appears whole at the end; where something goes wrong within, nothing of it is left and
    what `path` held stays. ValueError for sides or a rate that it cannot have, and where this PyAV
    has no encoder; OSError names the file that could not be written.
    """

    def __init__(self, path: str | Path, height: int, width: int, fps: float = 24) -> None:
        check_sides(height, width)
        if not 0 < fps <= MAX_FPS:
            raise ValueError(f"fps must be above 0 and at most {MAX_FPS}, got {fps}")
        check_encoder()
        self._path, self._size = Path(path), (height, width)
        self._rate = Fraction(fps).limit_denominator(1001)  # a float's own is too long for it

    def __enter__(self) -> "Mp4Writer":
        with ExitStack() as stack:  # undone where the file cannot be begun
            self._open(stack.enter_context(whole(self._path)))
            self._stack = stack.pop_all()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Write the next uint8 frames `[t, H, W, 3]`."""
        check_frames(frames)
        if frames.shape[1:3] != self._size:
            raise ValueError(f"frames must be of {self._size} pixels, got {frames.shape[1:3]}")
        try:
            for image in frames:
                self._container.mux(self._stream.encode(_to_yuv(image)))
        except OSError as error:
            raise self._unwritable(error) from error

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> bool | None:
        if kind is not None:
            with suppress(OSError, ValueError):
                self._container.close()
            return self._stack.__exit__(kind, *exception)
        with self._stack:
            try:
                self._container.mux(self._stream.encode())
                self._container.close()
            except OSError as error:
                with suppress(OSError, ValueError):
                    self._container.close()
                raise self._unwritable(error) from error
        return None

    def _open(self, partial: Path) -> None:
        try:
            options = {"movflags": "+faststart"}  # players begin before they have all of it
            self._container = av.open(str(partial), "w", format="mp4", options=options)
        except OSError as error:
            raise self._unwritable(error) from error
        stream = self._container.add_stream(CODEC, rate=self._rate, options={"crf": "12"})
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT_709
        context.color_range = LIMITED
        self._stream = stream

    def _unwritable(self, error: OSError) -> OSError:
        return OSError(f"cannot write {self._path}: {error.strerror or first_line(error)}")


def check_encoder() -> None:
    """Raise ValueError, with the way out, where this PyAV cannot encode H.264."""
    try:
        av.Codec(CODEC, "w")
    except ValueError as error:  # of which PyAV's own is a kind
        raise ValueError(
            f"this PyAV has no encoder {CODEC}: install the wheels of PyPI (pip install --upgrade "
            "--force-reinstall --only-binary :all: av), or write PNGs with --frames-out FOLDER"
        ) from error


def _to_yuv(image: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )
