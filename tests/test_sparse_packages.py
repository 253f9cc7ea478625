"""SageAttention, and the packages of SSTA and STA, by stand-ins with the real ones' signatures."""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from disca_rt.attention import sparse_packages as packages
from disca_rt.attention.backends import BACKENDS, get_backend
from disca_rt.attention.local import LocalAttention
from disca_rt.attention.protocol import NoOverlap
from disca_rt.cache.stand_in import Moment
from disca_rt.cache.stand_ins.tiles import SelectedTiles, SlidingTiles
from disca_rt.tokens import TokenLayout
from golden_vectors import relative_error

MODULES = "sageattention", "flex_block_attn", "st_attn", "fastvideo_kernel"
TILE, WINDOW, TEXT, HEADS = (2, 2, 4), (1, 3, 1), 5, 2


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides packages that this machine may have, lets stand-ins run on a CPU; tiles are small."""
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("sage", "ssta", "sta"):
        row = replace(BACKENDS[name], devices=("cpu",), dtypes=(torch.float32,))
        monkeypatch.setitem(BACKENDS, name, row)
    for name, value in {"TILE": TILE, "WINDOW": WINDOW, "TOPK": 6, "WIDTH": 8}.items():
        monkeypatch.setattr(packages, name, value)
    packages.imported.cache_clear()
    yield
    packages.imported.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Callable[..., Any]) -> None:
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def staged(backend: str, layout: TokenLayout, *tensors: Tensor) -> Tensor:
    handle = LocalAttention(backend).begin(layout)
    q, k, v = tensors
    handle.put_v(v)
    handle.put_k(k)
    handle.put_q(q)
    return handle.result(NoOverlap()).unflatten(2, q.shape[2:])


def tensors(grid: tuple[int, int, int], width: int = 8) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = 2, math.prod(grid) + TEXT, HEADS, width
    return tuple(torch.randn(shape, generator=generator) for _ in range(3))


def layout(grid: tuple[int, int, int], lengths: Tensor | None = None) -> TokenLayout:
    return TokenLayout(math.prod(grid), lengths, grid=grid)


def attended(of: tuple[Tensor, ...], keys: Tensor | None = None) -> Tensor:
    """Attention of heads `[B, H, R, D]` to `keys [B, H, R, R]`."""
    q, k, v = of
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    scores = scores if keys is None else scores.masked_fill(~keys, float("-inf"))
    return scores.softmax(-1) @ v


def test_sage_is_called_as_it_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def sageattn(
        q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs
    ):
        calls.append((tensor_layout, is_causal, sm_scale, kwargs))
        heads = tuple(x.transpose(1, 2) for x in (q, k, v))
        out = attended(heads).transpose(1, 2)
        scores = heads[0] @ heads[1].transpose(2, 3) * sm_scale
        return (out, scores.logsumexp(-1)) if return_lse else out

    with pytest.raises(
        ValueError, match=r"sage is not here .*: pip install --no-build-is.*==2.2.0"
    ):
        get_backend("sage")
    install(monkeypatch, "sageattention", sageattn=sageattn)
    packages.imported.cache_clear()
    with pytest.raises(ValueError, match="has no attribute 'sageattn_qk_int8_pv_fp8_cuda'"):
        get_backend("sage")
    install(monkeypatch, "sageattention", sageattn=sageattn, sageattn_qk_int8_pv_fp8_cuda=sageattn)
    packages.imported.cache_clear()
    q, k, v = tensors((1, 2, 2))
    expected = get_backend("math").with_lse(q, k, v, None)
    torch.testing.assert_close(get_backend("sage")(q, k, v, None), expected.out)
    part = get_backend("sage").with_lse(q, k, v, None)
    torch.testing.assert_close(part.lse, expected.lse)
    assert calls == [("NHD", False, 8**-0.5, {})] * 2
    with pytest.raises(ValueError, match=r"sage cannot run on cpu .* and padding; choose sdpa"):
        get_backend("sage")(q, k, v, torch.ones(2, 9, dtype=torch.bool))
    assert not any(BACKENDS[name].is_measured for name in packages.KERNELS), "never by themselves"


@pytest.mark.parametrize("grid", [(4, 4, 4), (5, 6, 4)])
def test_flex_block_attn_is_called_as_it_wants(
    grid: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order of tiles, filled up to whole ones; what it gives is SSTA but for text's filling."""

    def flex_block_attn_func(q, k, v, q_block_size, kv_block_size, block_mask):
        assert (q_block_size, kv_block_size) == (16, 16)
        assert q.is_contiguous()
        assert q.shape[2] == 16 * block_mask.shape[2] == 16 * block_mask.shape[3]
        assert block_mask.shape[:2] == (2, HEADS)
        keys = block_mask.repeat_interleave(16, 2).repeat_interleave(16, 3)
        text = keys.shape[3] - 16
        last = k[:, :, text + TEXT - 1 : text + TEXT]
        assert torch.equal(k[:, :, text + TEXT :], last.expand(-1, -1, 16 - TEXT, -1))
        keys[..., text + TEXT :] = False  # the copies of the last token
        return attended((q, k, v), keys)

    with pytest.raises(ValueError, match=r"ssta is not here .*--policy ssta has a kernel.*flex-bl"):
        get_backend("ssta")
    install(monkeypatch, "flex_block_attn", flex_block_attn_func=flex_block_attn_func)
    packages.imported.cache_clear()
    of = tensors(grid)
    found = staged("ssta", layout(grid), *of)
    own = SelectedTiles(WINDOW, TILE, "zero", ssta_topk=6)
    assert relative_error(found, ours(own, grid, of)) <= 1e-6


def ours(stand_in: SlidingTiles, grid: tuple[int, int, int], of: tuple[Tensor, ...]) -> Tensor:
    inputs = packages.AttentionInputs(*of, None, layout(grid), BACKENDS["sdpa"])
    return stand_in.value((), Moment(None, None, None, attention=inputs))


@pytest.mark.parametrize("module", ["st_attn", "fastvideo_kernel"])
def test_sliding_tile_attention_is_called_as_it_wants(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = (4, 4, 4)
    monkeypatch.setattr(packages, "STA_GRIDS", {grid: "4x4x4"})

    def sliding_tile_attention(
        q, k, v, window_size, text_length, has_text=True, seq_shape="30x48x80"
    ):
        assert window_size == [WINDOW] * HEADS
        assert (text_length, has_text, seq_shape) == (TEXT, True, "4x4x4")
        tiles = packages.ssta.tiling(grid, TILE, WINDOW)
        near = tiles.near(q.device).repeat_interleave(16, 0).repeat_interleave(16, 1)
        keys = torch.nn.functional.pad(near, (0, TEXT, 0, TEXT), value=True)
        return attended((q, k, v), keys.expand(2, HEADS, -1, -1))

    with pytest.raises(ValueError, match=r"sta is not here .*--policy sta has .*install st-attn$"):
        get_backend("sta")
    install(monkeypatch, module, sliding_tile_attention=sliding_tile_attention)
    packages.imported.cache_clear()
    of = tensors(grid)
    found = staged("sta", layout(grid), *of)
    assert relative_error(found, ours(SlidingTiles(WINDOW, TILE), grid, of)) <= 1e-6
    with pytest.raises(
        ValueError, match=r"sta has kernels for \[\(4, 4, 4\)\] tokens .*--policy sta"
    ):
        staged("sta", layout((5, 6, 4)), *tensors((5, 6, 4)))


def test_what_blocks_are_not_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "flex_block_attn", flex_block_attn_func=lambda *given: given[0])
    grid = (4, 4, 4)
    lengths = torch.tensor([math.prod(grid) + TEXT, math.prod(grid) + 1])
    with pytest.raises(ValueError, match=r"ssta cannot run on cpu .* and padding; choose sdpa"):
        staged("ssta", layout(grid, lengths), *tensors(grid))
    with pytest.raises(ValueError, match="heads of width 8, got 16; choose --policy ssta"):
        staged("ssta", layout(grid), *tensors(grid, 16))
    text = tuple(each[:, :TEXT] for each in tensors(grid))
    found = staged("ssta", TokenLayout(0, None), *text)
    torch.testing.assert_close(found, BACKENDS["sdpa"](*text, None), msg="text has no places")
    with pytest.raises(ValueError, match=r"a ring of ranks needs .* got 'ssta'"):
        get_backend("ssta").with_lse(*text, None)
