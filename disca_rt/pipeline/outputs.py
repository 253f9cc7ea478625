"""Files of a video, written while it is decoded: mp4, contact sheet, a folder of PNGs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .media import FrameFolder, SheetWriter, enlargement, to_frames
from .mp4 import Mp4Writer

FPS = 24  # of HunyuanVideo


@dataclass(frozen=True)
class VideoFiles:
    """Files of one video; None: not wanted. The contact sheet lies beside the mp4."""

    mp4: Path | None = None
    frames: Path | None = None
    fps: float = FPS

    @property
    def sheet(self) -> Path | None:
        """Path of the contact sheet; None without an mp4."""
        return None if self.mp4 is None else self.mp4.with_suffix(".png")

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [path for path in (self.mp4, self.sheet, self.frames) if path is not None]

    @contextmanager
    def opened(self, size: tuple[int, int, int]) -> Iterator[Callable[[Tensor], None]]:
        """Begin all files of a video of `size` (frames, height, width) and give their writer.

        It takes chunks `[3, t, H, W]` in [0, 1], in order. Files appear at the end; where something
        goes wrong within, none is begun or changed. Refusals come before the first chunk.
        """
        count, *sides = size
        height, width = (side * enlargement(*sides) for side in sides)
        with ExitStack() as stack:
            writers = []
            if self.mp4 is not None:
                writers.append(stack.enter_context(SheetWriter(self.sheet, count)))
                mp4 = Mp4Writer(self.mp4, height, width, self.fps)
                writers.append(stack.enter_context(mp4))
            if self.frames is not None:
                writers.append(stack.enter_context(FrameFolder(self.frames)))

            def write(chunk: Tensor) -> None:
                frames = to_frames(chunk)
                for writer in writers:
                    writer.write(frames)

            yield write
