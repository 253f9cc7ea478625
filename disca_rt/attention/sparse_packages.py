"""SageAttention 2, and the authors' kernels of SSTA and STA, imported when they are asked for.

Facts of their interfaces: `sageattn` takes `[B, S, H, D]` and no mask. `flex_block_attn_func` takes
`[B, H, S, D]` in the order of tiles and a table of blocks; `sliding_tile_attention` the same order,
a window in tiles for each head, the number of valid text tokens, and one of three grids by name.
Both need tokens filled up to whole tiles. Knows no names of backends and no table.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ssta
from .partial import Partial
from .protocol import Attend, AttendWithLSE, AttentionInputs, Instead
from .pytorch_kernels import sdpa

TILE, WINDOW, TOPK, WEIGHT = (6, 8, 8), (3, 3, 3), 64, 0.7  # HunyuanVideo 1.5's own
WIDTH = 128  # of the heads that SSTA's and STA's kernels are for
STA_GRIDS = {(30, 48, 80): "30x48x80", (36, 48, 48): "36x48x48", (18, 48, 80): "18x48x80"}


class Package(NamedTuple):
    """A package with a function called `name` in one of `modules`; `way_out` is said where not."""

    modules: tuple[str, ...]
    name: str
    way_out: str = ""

    def missing(self) -> str | None:
        """Say why the function cannot be imported; None where it can."""
        found = imported(self.modules, self.name)
        return found + self.way_out if isinstance(found, str) else None

    def __call__(self, *args: Any, **named: Any) -> Any:
        return imported(self.modules, self.name)(*args, **named)


class Kernel(NamedTuple):
    """Fields, by their names, of a package's kernel in the table of backends."""

    attend: Attend
    missing: Callable[[], str | None]
    install: str
    pip: str | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)
    attend_with_lse: AttendWithLSE | None = None
    attend_by_places: Instead | None = None


@cache
def imported(modules: tuple[str, ...], name: str) -> Callable[..., Any] | str:
    """The function called `name` of the first module that has it, or why none has."""
    errors = []
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            errors.append(f"{error}".partition("\n")[0])
    return "; ".join(errors)


OWN = "; --policy {} has a kernel of its own"
SAGE = Package(("sageattention",), "sageattn")
SAGE_2 = Package(("sageattention",), "sageattn_qk_int8_pv_fp8_cuda")  # version 1 has none
FLEX = Package(("flex_block_attn",), "flex_block_attn_func", OWN.format("ssta"))
STA = Package(("st_attn", "fastvideo_kernel"), "sliding_tile_attention", OWN.format("sta"))


def sage(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention with Q and K in INT8 and V in FP8 (arXiv 2411.10958)."""
    return SAGE(q, k, v, tensor_layout="NHD", is_causal=False, sm_scale=q.shape[-1] ** -0.5)


def sage_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    scale = q.shape[-1] ** -0.5
    out, lse = SAGE(q, k, v, tensor_layout="NHD", is_causal=False, sm_scale=scale, return_lse=True)
    return Partial(out, lse.transpose(1, 2))


def ssta_by_package(inputs: AttentionInputs) -> Tensor:
    """SSTA with the authors' settings, by flex-block-attn; all keys where tokens have no places.

    As the authors do, text is filled up to whole tiles by its last token.
    """
    grid = inputs.layout.grid
    if grid is None:
        return inputs.to_all_keys()
    _check_width("ssta", inputs)
    tiles, topk = ssta.tiling(grid, TILE, WINDOW), ssta.selected_of(grid, TOPK)
    selected = ssta.important_tiles(inputs, tiles, topk, WEIGHT, "importance")
    rows, _ = ssta.rows_in_blocks(inputs, tiles)
    count, size = prod(tiles.counts), rows.shape[1]
    mask = ssta.block_mask(tiles, selected, len(rows) - count, rows.device)
    text = rows[count:].where(rows[count:] >= 0, inputs.q.shape[1] - 1)
    filled = torch.cat([rows[:count], text]).flatten()
    out = FLEX(*(_in_order(each, filled) for each in inputs[:3]), size, size, mask.contiguous())
    return _back(out, rows.flatten(), inputs.q.shape[1])


def sta_by_package(inputs: AttentionInputs) -> Tensor:
    """STA with windows of WINDOW, by st_attn or fastvideo-kernel; all keys without places."""
    grid, tokens, heads = inputs.layout.grid, *inputs.q.shape[1:3]
    if grid is None:
        return inputs.to_all_keys()
    _check_width("sta", inputs)
    if grid not in STA_GRIDS:
        raise ValueError(
            f"attention backend sta has kernels for {[*STA_GRIDS]} tokens (T, H, W), got {grid}; "
            "choose --policy sta"
        )
    img, device = inputs.layout.img_len, inputs.q.device
    tiles = ssta.tiling(grid, TILE, WINDOW).rows(device).flatten()
    rows = torch.cat([tiles, torch.arange(img, tokens, dtype=torch.int32, device=device)])
    tensors = (_in_order(each, rows) for each in inputs[:3])
    windows, text = [WINDOW] * heads, tokens - img
    return _back(STA(*tensors, windows, text, text > 0, STA_GRIDS[grid]), rows, tokens)


def _check_width(name: str, inputs: AttentionInputs) -> None:
    if inputs.q.shape[-1] != WIDTH:
        raise ValueError(
            f"attention backend {name} has kernels for heads of width {WIDTH}, got "
            f"{inputs.q.shape[-1]}; choose --policy {name}"
        )


def _in_order(x: Tensor, rows: Tensor) -> Tensor:
    """Heads `[B, H, R, D]` of `x [B, S, H, D]`: its `rows [R]`, zeros where they are negative."""
    found = x.index_select(1, rows.clamp(min=0)).masked_fill(rows[:, None, None] < 0, 0)
    return found.transpose(1, 2).contiguous()


def _back(out: Tensor, rows: Tensor, tokens: int) -> Tensor:
    """`[B, S, H, D]` of `out [B, H, R, D]`, whose `rows [R]` say which token each is of."""
    places = torch.empty(tokens + 1, dtype=torch.int64, device=rows.device)
    numbers = torch.arange(len(rows), device=rows.device)
    places.scatter_(0, rows.where(rows >= 0, tokens).long(), numbers)
    return out.index_select(2, places[:tokens]).transpose(1, 2)


KERNELS = {
    "sage": Kernel(
        sage,
        SAGE_2.missing,
        "sageattention",
        "--no-build-isolation sageattention==2.2.0",
        dtypes=(torch.bfloat16, torch.float16),
        attend_with_lse=sage_with_lse,
    ),
    "ssta": Kernel(
        sdpa,
        FLEX.missing,
        "flex-block-attn",
        "--no-build-isolation git+https://github.com/Tencent-Hunyuan/flex-block-attn",
        attend_by_places=ssta_by_package,
    ),
    "sta": Kernel(sdpa, STA.missing, "st-attn", attend_by_places=sta_by_package),
}
"""Kernels by the backend's name. Where tokens have no places, as the refiner's, PyTorch attends."""
