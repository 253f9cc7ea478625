"""Staged attention against the textbook formula, with and without padding."""

import pytest
import torch
from torch import Tensor

from disca_rt.attention.backends import BACKENDS, get_backend
from disca_rt.attention.local import LocalAttention
from disca_rt.attention.protocol import NoOverlap
from disca_rt.tokens import TokenLayout


def textbook(q: Tensor, k: Tensor, v: Tensor, valid: int) -> Tensor:
    """Softmax(QKᵀ/√D)V over the first `valid` keys of one sample, `[S, H, D]`, fp64."""
    q, k, v = q.double(), k.double()[:valid], v.double()[:valid]
    weights = torch.einsum("shd,thd->hst", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hst,thd->shd", weights.softmax(-1), v)


@pytest.mark.parametrize("backend", ["sdpa", "flash", "native", "math"])
@pytest.mark.parametrize("lengths", [None, (9, 4)])
def test_staged_attention_is_the_formula(backend: str, lengths: tuple[int, int] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 9, 3, 8, generator=generator)
    layout = TokenLayout(5, None if lengths is None else torch.tensor(lengths))
    handle = LocalAttention(backend).begin(layout)
    handle.put_v(v)
    handle.put_k(k)
    handle.put_q(q)
    out = handle.result(NoOverlap())
    assert out.shape == (2, 9, 24)
    for i, valid in enumerate(lengths or (9, 9)):
        expected = textbook(q[i], k[i], v[i], valid).flatten(1)
        assert torch.allclose(out[i].double(), expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["cudnn", "efficient"])
def test_a_backend_that_cannot_run_here_never_falls_back(backend: str) -> None:
    handle = LocalAttention(backend).begin(TokenLayout(5, None))
    x = torch.randn(1, 9, 3, 8)
    handle.put_v(x)
    handle.put_k(x)
    handle.put_q(x)
    with pytest.raises(ValueError, match=r"cannot run on cpu .* choose sdpa"):
        handle.result(NoOverlap())


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [(63, 63), (5, 1000)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_on_a_gpu(backend: str, rows: tuple[int, int]) -> None:
    if BACKENDS[backend].missing() is not None:
        pytest.skip(f"{BACKENDS[backend].install} is not installed")
    if not BACKENDS[backend].takes("cuda", torch.bfloat16):
        pytest.skip("it is for CPUs")
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, count, 3, 128, generator=generator, device="cuda", dtype=torch.bfloat16)
        for count in (rows[0], rows[1], rows[1])
    )
    try:
        out = get_backend(backend)(q, k, v, None)
    except AssertionError as error:  # FA4 where it has no kernel for this GPU
        pytest.skip(str(error))
    expected = textbook(q[0], k[0], v[0], rows[1])
    worst = (get_backend("math")(q, k, v, None)[0].double() - expected).abs().max()
    assert (out[0].double() - expected).abs().max() <= 2 * worst
