"""Attention in C++ for CPUs, held to fp64 as PyTorch's is; the rest it leaves to that."""

import pytest
import torch
from torch import Tensor

from disca_rt.attention import native
from disca_rt.attention.backends import (
    BACKENDS,
    _is_native_fastest,
    automatic,
    get_backend,
)
from disca_rt.kernels import _cpu

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [1, 14, 16, 33, 128]


def packed(rows: int, width: int, dtype: torch.dtype, heads: int = 3) -> list[Tensor]:
    """q, k, v [2, rows, heads, width] as they lie in the rows of one projection."""
    generator = torch.Generator().manual_seed(rows + width)
    qkv = torch.randn(2, rows, 3 * heads * width, generator=generator).to(dtype)
    return [each.unflatten(2, (heads, width)) for each in qkv.chunk(3, 2)]


def error(out: Tensor, exact: Tensor) -> float:
    return float((out.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [1, 17, 300, 1100])
def test_it_is_as_near_as_pytorchs(rows: int, width: int, dtype: torch.dtype) -> None:
    q, k, v = packed(rows, width, dtype)
    some = torch.rand(2, rows, generator=torch.Generator().manual_seed(1)) < 0.7
    some[:, -1] = True
    for valid in (None, some):
        out = _cpu.attention(q, k, v, valid)
        exact = BACKENDS["math"](q.double(), k.double(), v.double(), valid)
        theirs = error(BACKENDS["sdpa"](q, k, v, valid), exact)
        assert out.dtype == dtype
        assert error(out, exact) <= max(1.6 * theirs, 2e-7)


def test_large_scores_of_a_later_tile_replace_the_earlier() -> None:
    q, k, v = packed(700, 8, torch.float32)
    k[:, 600] = 40 * q[:, 0]
    out = _cpu.attention(q, k, v, None)
    exact = BACKENDS["math"](q.double(), k.double(), v.double(), None)
    assert error(out, exact) < 1e-6
    assert torch.allclose(out[:, 0], v[:, 600], atol=1e-5)


def test_without_a_valid_key_there_is_no_number() -> None:
    q, k, v = packed(9, 8, torch.float32)
    valid = torch.tensor([[True] * 9, [False] * 9])
    assert _cpu.attention(q, k, v, valid).isnan().flatten(1).all(1).tolist() == [False, True]


def test_no_number_stays_none() -> None:
    q, k, v = packed(40, 8, torch.float32)
    q[0, 3] = float("nan")
    is_nan = _cpu.attention(q, k, v, None).isnan().flatten(2).all(2)
    assert is_nan.nonzero().tolist() == [[0, 3]]


def test_no_bit_depends_on_the_threads() -> None:
    q, k, v = packed(600, 14, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = _cpu.attention(q, k, v, None)
        torch.set_num_threads(3)
        three = _cpu.attention(q, k, v, None)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)


def test_gradients_are_pytorchs() -> None:
    q, k, v = (each.requires_grad_() for each in packed(9, 8, torch.float32))
    attend = get_backend("native")
    ours, theirs = (row(q, k, v, None) for row in (attend, BACKENDS["sdpa"]))
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(out.sum(), q)[0] for out in (ours, theirs)))


@pytest.mark.parametrize(
    "change",
    [
        lambda q: q.to(torch.float64),
        lambda q: q.transpose(2, 3).contiguous().transpose(2, 3),
        lambda q: q.repeat(1, 1, 1, 40),
    ],
    ids=["fp64", "columns", "wide"],
)
def test_what_it_does_not_know_is_left_alone(change) -> None:
    q, k, v = map(change, packed(9, 8, torch.float32))
    assert _cpu.attention(q, k, v, None) is None
    assert torch.equal(native.attend(q, k, v, None), BACKENDS["sdpa"](q, k, v, None))


def test_it_is_automatic_on_a_cpu_for_heads_that_it_is_faster_for() -> None:
    assert automatic(14, torch.float32, CPU) == automatic(64, torch.bfloat16, CPU) == "native"
    assert automatic(14, torch.float32, CPU, with_lse=True) == "sdpa"
    assert automatic(128, torch.float32, CPU) == automatic(14, torch.float64, CPU) == "sdpa"
    with pytest.raises(ValueError, match=r"native cannot run on cpu with torch\.float16"):
        get_backend("native")(*packed(9, 8, torch.float16), None)


def test_an_extension_that_is_not_built_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _is_native_fastest.cache_clear()
    monkeypatch.setattr(native, "extension", lambda: None)
    with pytest.raises(ValueError, match=r"native is not here .*_cpu is not built\): choose sdpa"):
        get_backend("native")
    assert automatic(14, torch.float32, CPU) == "sdpa"
    _is_native_fastest.cache_clear()
