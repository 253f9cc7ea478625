"""Bytes that a tile takes, and the tiles that fit: the official ones, or the largest smaller ones.

A decode's peak comes from no formula: the module's layers run on PyTorch's meta device, which has
shapes and no values, and the tensors that are alive at once are counted.
"""

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from ..family import Family
from ..instruments.peak_memory import PeakMemory
from ..units import byte_text
from .network import NETWORKS
from .tiles import OFFICIAL_15, ROOMY, TileGrid, Tiling

# What convolutions take beside the tensors counted: copies of their input, and of their weights, of
# which the largest is added. Process memory over counted tensors, real widths in fp32 on a CPU: 1.0
# 270 of 178 MB and 959 of 706 MB (tiles of 64 and 128 px, 9 frames); 1.5, whose largest weight has
# 906 MB, 913 of 113 MB and 913 of 453 MB. With both terms all four are covered, by 3 to 69 %.
WORKSPACE = 1.4


class TilePlan(NamedTuple):
    """Tiles that a decode takes, `size` bytes at its peak, and the line that tells of them."""

    tiling: Tiling
    grid: TileGrid
    size: int
    line: str


class TileCost:
    """Peak bytes of decoding one tile by `vae`, which is neither run nor changed."""

    def __init__(self, vae: nn.Module, family: Family) -> None:
        ghost = _on_meta(vae)
        parameter = next(ghost.parameters())
        self._dtype, self._channels = parameter.dtype, vae.config.latent_channels
        self._network = NETWORKS[family](ghost)
        self._weight = max(each.numel() * each.itemsize for each in ghost.parameters())
        self.counted = lru_cache(self._counted)

    def _counted(self, size: tuple[int, int, int]) -> int:
        """Bytes of the tensors alive at once, for a tile of `size` (T, H, W) in latents."""
        shape = 1, self._channels, *size
        latents = torch.empty(shape, dtype=self._dtype, device="meta")
        with torch.no_grad(), PeakMemory(latents.device) as peak:
            self._network.decode(latents)
        return peak.peak

    def __call__(self, grid: TileGrid, frame_bytes: int, time_factor: int) -> int:
        """Bytes of a decode by `grid` whose frames take `frame_bytes` each in the VAE's dtype.

        One tile and its workspace, the slab that tiles are blended into, and the zone in which two
        slabs are.
        """
        frames = (max(span.length for span in grid.time.spans) + grid.time.blend) * time_factor
        tile = int(self.counted(grid.largest) * WORKSPACE) + self._weight
        return tile + frames * frame_bytes


def choose_tiles(
    tilings: Sequence[Tiling],
    plan: Callable[[Tiling], TilePlan],
    free: int,
    agree: Callable[[int], int],
) -> TilePlan:
    """The first of `tilings` whose plan fits in `free` bytes; MemoryError where none does.

    Where free memory is scarce HunyuanVideo 1.5's own rule passes its large tiles over. Ranks
    `agree` on the smallest that one of them needs.
    """
    count = len(tilings)

    def fits(each: TilePlan) -> bool:
        return each.size <= free and not _passed_over(each, free, count)

    # Later ones are planned only where they are needed: a plan of full size takes 0.1 s.
    chosen = agree(next((i for i, each in enumerate(map(plan, tilings)) if fits(each)), count))
    if chosen == count:
        way_out = "" if count > 1 else "; --tiles official takes smaller ones by itself"
        needed = f"a decode in {plan(tilings[-1]).line}, does not fit"
        raise MemoryError(f"{needed} in {byte_text(free)} that are free{way_out}")
    official, smaller = plan(tilings[0]), plan(tilings[chosen])
    if smaller.grid == official.grid:
        return official
    first = f"the official {official.tiling} would take {byte_text(official.size)}"
    line = f"{smaller.line}; chosen for {byte_text(free)} free, {first}"
    return smaller._replace(line=line)


def _passed_over(plan: TilePlan, free: int, choices: int) -> bool:
    return choices > 1 and plan.tiling == OFFICIAL_15 and free <= ROOMY


def told(grid: TileGrid, tiling: Tiling, size: int) -> str:
    """Tiles of a decode and the bytes at its peak: "48 tiles of 256x192 px, ..., about 9.7 GB"."""
    tiles = f"{grid.count} tiles of {tiling}" if grid.count > 1 else "one tile"
    return f"{tiles}, about {byte_text(size)}"


def _on_meta(vae: Any) -> Any:
    """Copy of a module without values: its tensors are on the meta device."""
    empty = {id(each): _empty(each) for each in (*vae.parameters(), *vae.buffers())}
    return copy.deepcopy(vae, empty)


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(empty, requires_grad=False) if is_parameter else empty
