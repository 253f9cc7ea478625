"""Tiles that arrive in order become one tensor, or one after another in time; overlaps are mixed.

The mix is a linear ramp from the earlier tile to the later one, in place, first along the height,
then the width, then time: what the authors do, so that results are theirs to the last bit.
Tensors are [C, T, H, W].
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .tiles import Axis

TIME, HEIGHT, WIDTH = 1, 2, 3


def fade_in(before: Tensor, tile: Tensor, axis: int, extent: int) -> None:
    """Mix the first `extent` of `tile` along `axis` with the last of `before`, in place.

    Shorter tensors mix less. Products are rounded to the tensors' dtype before they are added.
    """
    extent = min(before.shape[axis], tile.shape[axis], extent)
    if extent == 0:
        return
    ramp = torch.arange(extent, dtype=torch.float64) / extent
    shape = [extent if dim == axis else 1 for dim in range(tile.ndim)]
    rising, falling = ((each.float().to(tile.device)).view(shape) for each in (ramp, 1 - ramp))
    old = before.narrow(axis, before.shape[axis] - extent, extent)
    new = tile.narrow(axis, 0, extent)
    new.copy_((old * falling).to(tile.dtype) + (new * rising).to(tile.dtype))


def ending(tile: Tensor, axis: int, extent: int) -> Tensor:
    """Copy of the last `extent` of `tile` along `axis`, or of all of it where it is shorter."""
    extent = min(tile.shape[axis], extent)
    return tile.narrow(axis, tile.shape[axis] - extent, extent).clone()


def blend_frame(tiles: Iterable[Tensor], rows: Axis, columns: Axis, factor: int) -> Tensor | None:
    """Blend tiles that arrive row by row into one tensor; None where none arrives.

    A latent of the axes is `factor` elements of the tiles. Beside the result, one tile and the ends
    of one row of tiles are in memory. A single tile is returned as it is.
    """
    across = len(columns.spans)
    if len(rows.spans) * across == 1:
        return next(iter(tiles), None)
    result, above, left = None, [], None
    for index, tile in enumerate(tiles):
        row, column = divmod(index, across)
        if row:
            fade_in(above[column], tile, HEIGHT, rows.blend * factor)
        if column:
            fade_in(left, tile, WIDTH, columns.blend * factor)
        left = ending(tile, WIDTH, columns.blend * factor)
        above[column : column + 1] = [ending(tile, HEIGHT, rows.blend * factor)]
        if result is None:
            size = rows.length * factor, columns.length * factor
            result = tile.new_empty(*tile.shape[:2], *size)
        kept = tile[:, :, : rows.stride * factor, : columns.stride * factor]
        place = result[
            :, :, rows.spans[row].start * factor :, columns.spans[column].start * factor :
        ]
        place[:, :, : kept.shape[2], : kept.shape[3]] = kept
    return result


def blend_time(slabs: Iterable[Tensor], time: Axis, factor: int) -> Iterator[Tensor]:
    """Give out frames of slabs that arrive in order, as soon as no later slab changes them.

    A latent of the axis is `factor` frames; the first slab has one frame more than its others
    would. Beside the slab at hand, the ends of the one before are in memory.
    """
    remaining, before = len(time.spans), None
    slabs = iter(slabs)
    while (slab := next(slabs, None)) is not None:
        if before is not None:
            fade_in(before, slab, TIME, time.blend * factor)
        remaining -= 1
        own = time.stride * factor + (before is None)
        before = ending(slab, TIME, time.blend * factor) if remaining else None
        yield slab[:, :own] if remaining else slab
        del slab  # before the next one is computed
