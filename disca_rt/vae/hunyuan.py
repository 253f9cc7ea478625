"""Codec of HunyuanVideo 1.0 and 1.5 over diffusers' VAE modules, in tiles.

The module gives the networks, its sizes, scale and shift; tiles, their order and blending are ours.
"""

import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..family import Family
from .blend import blend_frame, blend_time
from .budget import TileCost, TilePlan, choose_tiles, told
from .codec import OnTile, check_finite
from .network import NETWORKS
from .share import Alone, TileShare
from .sizes import VideoSizes, sizes_of
from .stream import TileStream
from .tiles import SMALLER, Span, TileGrid, Tiling, make_grid, parse_tiling


class HunyuanCodec:
    """Latents `[B, C, T, H, W]` to video `[B, 3, T', H', W']` in [0, 1] and back, row by row.

    `vae` is diffusers' module of `family`, of any sizes, in eval mode; `tiling` a name or a pair of
    steps as `parse_tiling` reads them. With `share` several ranks decode one sample: they call
    alike, and the ranks after the first get the video only if the share says so, else no frame.
    With `free`, the bytes that a decode may take as it begins, official tiles that would not fit
    give way to smaller ones, and what does not fit is refused. `tell` gets a line of what was
    chosen when that changes.
    """

    def __init__(
        self,
        vae: Any,
        family: Family,
        tiling: str | Tiling = "official",
        share: TileShare | None = None,
        *,
        free: Callable[[], int] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.vae, self.family = vae, family
        self.tiling = parse_tiling(tiling, family) if isinstance(tiling, str) else tiling
        self.choices = (self.tiling, *SMALLER[family]) if tiling == "official" else (self.tiling,)
        self.share = Alone() if share is None else share
        self.free, self.tell, self._told = free, tell, ""
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
        """Tiles of latents of `size` (T, H, W), whether they fit or not."""
        return self._grid(self.tiling, size)

    def plan(self, size: tuple[int, int, int]) -> TilePlan:
        """Tiles for latents of `size` (T, H, W), their bytes, and the line that tells of them.

        MemoryError where none fits. All ranks of a share ask alike.
        """
        plan = partial(self._plan, size)
        if self.free is None:
            return plan(self.tiling)
        return choose_tiles(self.choices, plan, self.free(), self.share.agree)

    def encode(self, video: Tensor) -> Tensor:
        """Encode video `[B, 3, T', H', W']` in [0, 1] to fp32 latents: the mode, scaled.

        A picture, T = 1, is encoded whole, as the authors and diffusers do, a longer video in tiles
        as a decode. Every rank encodes by itself. ValueError for an illegal size.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise ValueError(f"video must be [B, 3, T, H, W], got {list(video.shape)}")
        self.latent_shape(*video.shape[2:])
        modes = torch.stack([self._encoded(row) for row in video])
        return (modes.float() - self.shift) * self.scale

    def drawn(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """Encode a picture `[1, 3, 1, H, W]` to fp32 latents drawn by `generator`, scaled.

        As diffusers' `latent_dist.sample`: in the VAE's dtype, by the generator of the CPU.
        """
        with torch.no_grad():
            mean, log_variance = self._moments(video[0]).chunk(2)
        deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
        noise = torch.randn((1, *mean.shape), generator=generator, dtype=mean.dtype)[0]
        drawn = mean + deviation * noise.to(mean.device)
        return (drawn[None].float() - self.shift) * self.scale

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
        grid = self._chosen(tuple(latents.shape[1:]))
        return TileStream(self, grid, latents, on_tile, cancel).chunks()

    def decode_tile(self, latents: Tensor) -> Tensor:
        """Decode scaled latents `[C, t, h, w]` of one tile in the VAE's dtype, about [-1, 1]."""
        scaled = latents.to(self.device, torch.float32) / self.scale + self.shift
        with torch.no_grad():
            decoded = self.network.decode(scaled.to(self.dtype)[None])[0]
        if not torch.isfinite(decoded).all():
            raise FloatingPointError(_overflowed("decode", self.dtype))
        return decoded

    def encode_tile(self, pixels: Tensor) -> Tensor:
        """Encode pixels `[3, t, h, w]` in [0, 1] of one tile to the mode, unscaled."""
        with torch.no_grad():
            return self._moments(pixels)[: self.latent_channels]

    def _moments(self, pixels: Tensor) -> Tensor:
        """Means and logarithms of variances `[2C, t, h, w]` of pixels in [0, 1]."""
        given = (pixels.to(self.device, torch.float32) * 2 - 1).to(self.dtype)
        moments = self.network.encode(given[None])[0]
        if not torch.isfinite(moments[: self.latent_channels]).all():
            raise FloatingPointError(_overflowed("encode of the picture", self.dtype))
        return moments

    @cached_property
    def _cost(self) -> TileCost:
        return TileCost(self.vae, self.family)

    def _chosen(self, size: tuple[int, int, int]) -> TileGrid:
        if self.free is None and self.tell is None:
            return self.grid(size)
        plan = self.plan(size)
        if self.tell is not None and plan.line != self._told:
            self._told = plan.line
            self.tell(plan.line)
        return plan.grid

    def _grid(self, tiling: Tiling, size: tuple[int, int, int]) -> TileGrid:
        return make_grid(tiling, size, self.sizes.time_factor, self.sizes.side_factor)

    def _plan(self, size: tuple[int, int, int], tiling: Tiling) -> TilePlan:
        grid = self._grid(tiling, size)
        _, height, width = self.video_size(*size)
        cost = self._cost(grid, 3 * height * width * self.dtype.itemsize, self.sizes.time_factor)
        return TilePlan(tiling, grid, cost, told(grid, tiling, cost))

    def _encoded(self, video: Tensor) -> Tensor:
        size = self.latent_shape(*video.shape[1:])[1:]
        grid = self._grid(self.tiling if size[0] > 1 else Tiling(), size)
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


def _sizes(vae: Any, family: Family) -> VideoSizes:
    """Size rules of `family` with the module's own channels and factors."""
    factors = int(vae.spatial_compression_ratio), int(vae.temporal_compression_ratio)
    return sizes_of(family, int(vae.config.latent_channels), *factors)


def _overflowed(stage: str, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float16:
        return f"{stage} overflowed in {name}; try --vae-dtype bfloat16 or float32"
    way_out = "try --vae-dtype float32" if dtype != torch.float32 else "are its weights whole?"
    return f"{stage}: what the VAE gives is not finite in {name}; {way_out}"
