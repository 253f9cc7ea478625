"""The decode of one sample as a stream: tiles in order, over the ranks of a share, then chunks.

Knows how tiles are dealt out, blended and given out; what a tile becomes is the codec's.
"""

import threading
from collections.abc import Iterator
from itertools import product
from typing import Protocol

from torch import Tensor

from ..sampling.loop import Cancelled
from .blend import blend_frame, blend_time
from .codec import OnTile
from .share import CANCELLED, FAILED, FINE, AnotherRankFailed, TileShare
from .sizes import VideoSizes
from .tiles import Span, TileGrid

CHUNK_FRAMES = 16  # a chunk is fp32, and its slab in the VAE's dtype


class TileCodec(Protocol):
    """Codec as a stream sees it, which decodes its tiles."""

    share: TileShare
    sizes: VideoSizes

    def decode_tile(self, latents: Tensor) -> Tensor:
        """Decode scaled latents `[C, t, h, w]` of one tile, to about [-1, 1]."""


class TileStream:
    """Decode of one sample by `grid`; `latents [C, T, H, W]` are as the DiT gives them."""

    def __init__(
        self,
        codec: TileCodec,
        grid: TileGrid,
        latents: Tensor,
        on_tile: OnTile | None,
        cancel: threading.Event | None,
    ) -> None:
        self.codec, self.share, self.latents = codec, codec.share, latents
        self.on_tile, self.cancel = on_tile, cancel
        self.grid, self.done = grid, 0

    def chunks(self) -> Iterator[Tensor]:
        """Give out fp32 chunks `[3, t, H', W']` in [0, 1], each once no later tile changes it."""
        if self.share.rank:
            yield from self._of_another_rank()
            return
        time = self.grid.time
        slabs = blend_time(map(self._slab, time.spans), time, self.codec.sizes.time_factor)
        try:
            for slab in slabs:
                for frames in slab.split(CHUNK_FRAMES, dim=1):
                    chunk = (frames.float() / 2 + 0.5).clamp(0, 1)
                    yield self.share.spread(chunk, chunk.shape) if self.share.everywhere else chunk
                del slab, frames  # before the next one is computed
        except GeneratorExit:  # whoever reads the chunks has failed
            if self.done < self.grid.count and not self.share.everywhere:
                self.share.agree(FAILED)
            raise

    def _of_another_rank(self) -> Iterator[Tensor]:
        _, height, width = self.codec.sizes.video_size(*self.latents.shape[1:])
        for index, span in enumerate(self.grid.time.spans):
            for _ in self._tiles(span):
                raise AssertionError("only the first rank collects tiles")
            for start in range(0, frames := self._frames(index), CHUNK_FRAMES):
                if self.share.everywhere:
                    count = min(CHUNK_FRAMES, frames - start)
                    yield self.share.spread(None, (3, count, height, width))

    def _frames(self, index: int) -> int:
        """Number of frames that slab number `index` gives to the video."""
        time, factor = self.grid.time, self.codec.sizes.time_factor
        is_last = index == len(time.spans) - 1
        latents = time.spans[index].length - 1 if is_last else time.stride
        return latents * factor + (index == 0)

    def _slab(self, span: Span) -> Tensor:
        """Frames of one span of time, on the first rank."""
        grid, factor = self.grid, self.codec.sizes.side_factor
        return blend_frame(self._tiles(span), grid.rows, grid.columns, factor)

    def _tiles(self, span: Span) -> Iterator[Tensor]:
        """Tiles of one slab row by row; none on ranks after the first."""
        places = list(product(self.grid.rows.spans, self.grid.columns.spans))
        for start in range(0, len(places), self.share.size):
            dealt = places[start : start + self.share.size]
            mine = self._mine(span, dealt)
            shapes = [self._shape(span, *place) for place in dealt]
            tiles = self.share.collect(mine, shapes)
            self.done += len(dealt)
            if self.on_tile is not None:
                self.on_tile(self.done, self.grid.count)
            del mine
            while tiles:
                yield tiles.pop(0)

    def _mine(self, span: Span, dealt: list[tuple[Span, Span]]) -> Tensor | None:
        """This rank's tile of a round, None where it has none; raises what any rank raises."""
        tile = None
        is_cancelled = self.cancel is not None and self.cancel.is_set()
        if self.share.rank < len(dealt) and not is_cancelled:
            try:
                tile = self._tile(span, *dealt[self.share.rank])
            except Exception:
                self.share.agree(FAILED)  # the other ranks wait for it
                raise
        worst = self.share.agree(CANCELLED if is_cancelled else FINE)
        if worst == CANCELLED:
            raise Cancelled(f"cancelled after tile {self.done} of {self.grid.count} of the decode")
        if worst == FAILED:
            raise AnotherRankFailed("the decode ended on another rank, which says why")
        return tile

    def _tile(self, span: Span, row: Span, column: Span) -> Tensor:
        """One tile, decoded; all but those that begin the video lose their first frame."""
        latents = self.latents[
            :, span.start : span.stop, row.start : row.stop, column.start : column.stop
        ]
        return self.codec.decode_tile(latents)[:, span.start > 0 :]

    def _shape(self, span: Span, row: Span, column: Span) -> tuple[int, int, int, int]:
        frames, height, width = self.codec.sizes.video_size(span.length, row.length, column.length)
        return 3, frames - (span.start > 0), height, width
