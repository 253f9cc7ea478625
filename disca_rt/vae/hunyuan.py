"""Codec of HunyuanVideo 1.0 and 1.5 over diffusers' VAE modules, in tiles.

The module gives the networks, its sizes, scale and shift; tiles, their order and blending are ours.
"""

import threading
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..family import Family
from ..sampling.loop import Cancelled
from .blend import blend_frame, blend_time
from .codec import OnTile, check_finite
from .network import NETWORKS
from .share import CANCELLED, FAILED, FINE, Alone, TileShare
from .sizes import SIZES, VideoSizes
from .tiles import Span, TileGrid, Tiling, make_grid, parse_tiling

CHUNK_FRAMES = 16  # a chunk is fp32, and its slab in the VAE's dtype


class HunyuanCodec:
    """Latents `[B, C, T, H, W]` to video `[B, 3, T', H', W']` in [0, 1] and back, row by row.

    `vae` is diffusers' module of `family`, of any sizes, in eval mode; `tiling` a name or a pair of
    steps as `parse_tiling` reads them. With `share` several ranks decode one sample: they call
    alike, and the ranks after the first get the video only if the share says so, else no frame.
    """

    def __init__(
        self,
        vae: Any,
        family: Family,
        tiling: str | Tiling = "official",
        share: TileShare | None = None,
    ) -> None:
        self.vae, self.family = vae, family
        self.tiling = parse_tiling(tiling, family) if isinstance(tiling, str) else tiling
        self.share = Alone() if share is None else share
        self.network = NETWORKS[family](vae)
        self.sizes = _sizes(vae, family)
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    @property
    def latent_channels(self) -> int:
        """Number of channels of the latents."""
        return self.sizes.latent_channels

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the networks work."""
        return next(self.vae.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the networks, and of what they give."""
        return next(self.vae.parameters()).device

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (C, T, H, W) of the latents; ValueError names an illegal size."""
        return self.sizes.latent_shape(frames, height, width)

    def video_size(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """Size (frames, height, width) of latents (T, H, W)."""
        return self.sizes.video_size(t, h, w)

    def grid(self, size: tuple[int, int, int]) -> TileGrid:
        """Tiles of latents of `size` (T, H, W)."""
        return make_grid(self.tiling, size, self.sizes.time_factor, self.sizes.side_factor)

    def encode(self, video: Tensor) -> Tensor:
        """Encode video `[B, 3, T', H', W']` in [0, 1] to fp32 latents: the mode, scaled.

        Tiled as a decode is. Every rank encodes by itself. ValueError for an illegal size.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise ValueError(f"video must be [B, 3, T, H, W], got {list(video.shape)}")
        self.latent_shape(*video.shape[2:])
        modes = torch.stack([self._encoded(row) for row in video])
        return (modes.float() - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents `[B, C, T, H, W]` to fp32 video `[B, 3, T', H', W']` in [0, 1].

        FloatingPointError where latents or what the VAE makes of them are not finite.
        """
        if latents.ndim != 5:
            raise ValueError(f"latents must be [B, C, T, H, W], got {list(latents.shape)}")
        frames, height, width = self.video_size(*latents.shape[2:])
        has_all = self.share.rank == 0 or self.share.everywhere
        video = torch.empty(
            (len(latents), 3, frames if has_all else 0, height, width), device=self.device
        )
        for row, sample in zip(video, latents, strict=True):
            start = 0
            for chunk in self.stream(sample):
                row[:, start : start + chunk.shape[1]] = chunk
                start += chunk.shape[1]
        return video

    def stream(
        self,
        latents: Tensor,
        *,
        on_tile: OnTile | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Tensor]:
        """Decode one sample `[C, T, H, W]` to fp32 chunks `[3, t, H', W']` in [0, 1], in order.

        A chunk is given out as soon as no later tile changes it. `cancel` may be one rank's alone.
        """
        self._check(latents)
        return _Decode(self, latents, on_tile, cancel).chunks()

    def decode_tile(self, latents: Tensor) -> Tensor:
        """Decode scaled latents `[C, t, h, w]` of one tile in the VAE's dtype, about [-1, 1]."""
        scaled = latents.to(self.device, torch.float32) / self.scale + self.shift
        with torch.no_grad():
            decoded = self.network.decode(scaled.to(self.dtype)[None])[0]
        if not torch.isfinite(decoded).all():
            raise FloatingPointError(_overflowed(self.dtype))
        return decoded

    def encode_tile(self, pixels: Tensor) -> Tensor:
        """Encode pixels `[3, t, h, w]` in [0, 1] of one tile to the mode, unscaled."""
        with torch.no_grad():
            given = (pixels.to(self.device, torch.float32) * 2 - 1).to(self.dtype)
            return self.network.encode(given[None])[0, : self.latent_channels]

    def _encoded(self, video: Tensor) -> Tensor:
        grid = self.grid(self.latent_shape(*video.shape[1:])[1:])
        slabs = (self._encoded_slab(video, grid, span) for span in grid.time.spans)
        return torch.cat(list(blend_time(slabs, grid.time, 1)), dim=1)

    def _encoded_slab(self, video: Tensor, grid: TileGrid, span: Span) -> Tensor:
        side, time = self.sizes.side_factor, self.sizes.time_factor
        frames = video[:, span.start * time : (span.stop - 1) * time + 1]
        tiles = (
            self.encode_tile(
                frames[:, :, row.start * side : row.stop * side, col.start * side : col.stop * side]
            )[:, span.start > 0 :]
            for row in grid.rows.spans
            for col in grid.columns.spans
        )
        return blend_frame(tiles, grid.rows, grid.columns, 1)

    def _check(self, latents: Tensor) -> None:
        if latents.ndim != 4 or latents.shape[0] != self.latent_channels or not latents.numel():
            raise ValueError(
                f"latents must be [{self.latent_channels}, T, H, W] for this VAE, "
                f"got {list(latents.shape)}"
            )
        check_finite(latents)


class _Decode:
    """One sample's decode: tiles in order, dealt out over the ranks of the codec's share."""

    def __init__(
        self,
        codec: HunyuanCodec,
        latents: Tensor,
        on_tile: OnTile | None,
        cancel: threading.Event | None,
    ) -> None:
        self.codec, self.share, self.latents = codec, codec.share, latents
        self.on_tile, self.cancel = on_tile, cancel
        self.grid = codec.grid(tuple(latents.shape[1:]))
        self.done = 0

    def chunks(self) -> Iterator[Tensor]:
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
        _, height, width = self.codec.video_size(*self.latents.shape[1:])
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
        tile, state, error = None, FINE, None
        if self.cancel is not None and self.cancel.is_set():
            state = CANCELLED
        elif self.share.rank < len(dealt):
            try:
                tile = self._tile(span, *dealt[self.share.rank])
            except Exception as raised:  # the other ranks are told before it goes on
                state, error = FAILED, raised
        worst = self.share.agree(state)
        if error is not None:
            raise error
        if worst == CANCELLED:
            raise Cancelled(f"cancelled after tile {self.done} of {self.grid.count} of the decode")
        if worst == FAILED:
            raise RuntimeError("the decode failed on another rank, which says why")
        return tile

    def _tile(self, span: Span, row: Span, column: Span) -> Tensor:
        """One tile, decoded; all but those that begin the video lose their first frame."""
        latents = self.latents[
            :, span.start : span.stop, row.start : row.stop, column.start : column.stop
        ]
        return self.codec.decode_tile(latents)[:, span.start > 0 :]

    def _shape(self, span: Span, row: Span, column: Span) -> tuple[int, int, int, int]:
        frames, height, width = self.codec.video_size(span.length, row.length, column.length)
        return 3, frames - (span.start > 0), height, width


def _sizes(vae: Any, family: Family) -> VideoSizes:
    """Size rules of `family` with the module's own channels and factors."""
    factor, usual = int(vae.spatial_compression_ratio), SIZES[family]
    return VideoSizes(
        latent_channels=int(vae.config.latent_channels),
        side_factor=factor,
        time_factor=int(vae.temporal_compression_ratio),
        side_multiple=factor * usual.side_multiple // usual.side_factor,
    )


def _overflowed(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        return f"decode overflowed in {name}; try --vae-dtype bfloat16 or float32"
    way_out = "try --vae-dtype float32" if dtype != torch.float32 else "are its weights whole?"
    return f"what the VAE decoded is not finite in {name}; {way_out}"
