"""Staged attention against the textbook formula, with and without padding."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from disca_rt.attention import pytorch_kernels
from disca_rt.attention.backends import BACKENDS, automatic, get_backend
from disca_rt.attention.local import LocalAttention
from disca_rt.attention.padding import Padding, attend
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


# Numbers of keys, and how many samples attend at a time: those of one number, evenly spaced.
UNLIKE = [
    ((9, 4), [(1, 4), (1, 9)]),
    ((9, 4, 9, 4), [(2, 4), (2, 9)]),
    ((9, 4, 4, 9), [(2, 4), (2, 9)]),
    ((4, 9, 4, 4), [(1, 4), (1, 4), (1, 4), (1, 9)]),
    ((5, 5), [(2, 5)]),
]


@pytest.mark.parametrize(("counts", "calls"), UNLIKE)
def test_samples_of_unlike_length_attend_without_a_mask(
    counts: tuple[int, ...], calls: list[tuple[int, int]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, len(counts), 9, 3, 8, generator=generator)
    ran = []

    def backend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        assert valid is None
        assert len(k) > 1 or k.is_contiguous(), "strides of a sample without padding"
        ran.append(tuple(k.shape[:2]))
        return get_backend("math")(q, k, v, None)

    grads = []
    for run in (
        lambda *qkv: attend(backend, *qkv, Padding(torch.tensor(counts), counts)),
        lambda *qkv: attend(get_backend("math"), *qkv, Padding(torch.tensor(counts), None)),
    ):
        leaf = inputs.double().requires_grad_()
        out = run(*leaf)
        for i, count in enumerate(counts):
            torch.testing.assert_close(out[i], textbook(*leaf[:, i], count))
        out.square().sum().backward()
        grads.append(leaf.grad)
    assert sorted(ran) == calls
    torch.testing.assert_close(*grads)


class Launched(TorchDispatchMode):
    """Names of the operators that run, and PyTorch's switches of attention while they do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[bool, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append((func.name().removeprefix("aten::"), switches()))
        return func(*args, **(kwargs or {}))


def switches() -> tuple[bool, ...]:
    of = torch.backends.cuda
    return of.cudnn_sdp_enabled(), of.flash_sdp_enabled(), of.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("name", ["cudnn", "flash", "efficient"])
def test_a_kernel_is_launched_without_a_switch_of_the_process(name: str) -> None:
    x = torch.empty(1, 64, 3, 128, device="meta", dtype=torch.bfloat16)
    before = switches()
    with Launched() as launched:
        out = getattr(pytorch_kernels, name)(x, x, x, None)
    assert out.shape == x.shape
    kernel = f"_scaled_dot_product_{name}_attention"
    assert [seen for seen in launched.seen if "dot_product" in seen[0]] == [(kernel, before)]


@pytest.mark.parametrize("trains", [True, False])
def test_a_masked_backward_is_not_left_to_the_choice(trains: bool) -> None:
    """On a GPU it may be cuDNN's, which gives NaN at some lengths."""
    x = torch.empty(1, 64, 3, 128, device="meta", dtype=torch.bfloat16, requires_grad=trains)
    with Launched() as launched:
        pytorch_kernels.sdpa(x, x, x, torch.empty(1, 64, device="meta", dtype=torch.bool))
    kernels = {name for name, _ in launched.seen if name.endswith("efficient_attention")}
    assert bool(kernels) == trains


def test_what_cudnn_does_not_take_is_refused_and_auto_takes_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("disca_rt.attention.backends.table_name", lambda device: "A")
    monkeypatch.setattr(
        "disca_rt.attention.backends.measured_order", lambda width, device: ("cudnn", "flash")
    )
    there = torch.device("cuda")
    assert automatic(128, torch.bfloat16, there) == "cudnn"
    assert automatic(128, torch.bfloat16, there, tokens=1) == "flash", "a prompt of one token"
    cudnn = replace(BACKENDS["cudnn"], devices=None)
    for shape in ((1, 1, 3, 128), (1, 64, 3, 14)):
        x = torch.empty(shape, device="meta", dtype=torch.bfloat16)
        with pytest.raises(ValueError, match=rf"width {shape[-1]}, {shape[1]} tokens .* choose"):
            cudnn(x, x, x, None)


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
@pytest.mark.parametrize(
    "backend", [row.name for row in BACKENDS.values() if row.attend_with_lengths]
)
def test_lengths_on_a_gpu(backend: str) -> None:
    device, dtype = torch.device("cuda"), torch.bfloat16
    row = BACKENDS[backend]
    if row.missing() is not None or not row.takes_lengths(128, dtype, device):
        pytest.skip("takes no lengths here")
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, rows, 3, 128, generator=generator, device=device, dtype=dtype)
        for rows in (70, 1000, 1000)
    )
    lengths = torch.tensor([1000, 701], device=device, dtype=torch.int32)
    out = row.with_lengths(q, k, v, lengths)
    for i, count in enumerate(lengths.tolist()):
        expected = textbook(q[i], k[i], v[i], count)
        part = (each[i : i + 1] for each in (q, k[:, :count], v[:, :count]))
        worst = (get_backend("math")(*part, None)[0].double() - expected).abs().max()
        assert (out[i].double() - expected).abs().max() <= 2 * worst


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [(63, 63), (5, 1000)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_on_a_gpu(backend: str, rows: tuple[int, int]) -> None:
    if backend == "sage":
        pytest.skip("eight bits are not as good as math's sixteen")
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
