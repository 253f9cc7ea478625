"""The reference ops against their definitions in fp64, written out independently."""

import inspect
import math

import pytest
import torch
from torch import Tensor

from disca_rt.kernels import reference
from disca_rt.kernels.ops import IMPLEMENTATIONS, Ops, get_ops

FP32 = 2e-6  # relative; sums of up to a few hundred terms


def close(actual: Tensor, expected: Tensor, tolerance: float = FP32) -> bool:
    return ((actual.double() - expected).norm() / expected.norm()).item() <= tolerance


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0))


def vectors(count: int, width: int = 24) -> Tensor:
    return torch.randn(count, 2, width, generator=torch.Generator().manual_seed(1))


def layer_norm64(x: Tensor) -> Tensor:
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def test_layer_norm_modulate(x: Tensor) -> None:
    shift, scale = vectors(2)
    expected = layer_norm64(x) * (1 + scale.double()[:, None]) + shift.double()[:, None]
    assert close(reference.layer_norm_modulate(x, shift, scale), expected)


def test_gate_residual_and_its_fusion(x: Tensor) -> None:
    gate, shift, scale = vectors(3)
    branch = x.flip(1)
    residual = x.double() + gate.double()[:, None] * branch.double()
    assert close(reference.gate_residual(x, branch, gate), residual)
    both = reference.gate_residual_layer_norm_modulate(x, branch, gate, shift, scale)
    assert close(both[0], residual)
    expected = layer_norm64(residual) * (1 + scale.double()[:, None]) + shift.double()[:, None]
    assert close(both[1], expected)


def test_layer_norm(x: Tensor) -> None:
    weight, bias = vectors(2)[:, 0]
    expected = layer_norm64(x) * weight.double() + bias.double()
    assert close(reference.layer_norm(x, weight, bias), expected)


@pytest.mark.parametrize("rotated", [0, 1, 5, 7])
def test_rms_norm_rope_rotates_only_image_rows(rotated: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 7, 3, 8, generator=generator)
    weights = torch.rand(2, 8, generator=generator) + 0.5
    angle = torch.rand(rotated, 4, generator=generator) * 6
    normed = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    of_row = weights[(torch.arange(7) >= rotated).long()]
    expected = normed * of_row.double()[:, None]
    pairs = torch.view_as_complex(expected.unflatten(-1, (4, 2)).contiguous())
    turn = torch.polar(torch.ones(rotated, 1, 4).double(), angle.double()[:, None])
    pairs[:, :rotated] = pairs[:, :rotated] * turn
    expected = torch.view_as_real(pairs).flatten(-2)
    assert close(reference.rms_norm_rope(x, *weights, angle.cos(), angle.sin()), expected)


def test_linear_gelu_is_the_tanh_approximation(x: Tensor) -> None:
    y = x.double() @ torch.eye(24).double()[:, :9] + 1
    inner = math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)
    expected = 0.5 * y * (1 + inner.tanh())
    assert close(reference.linear_gelu(x, torch.eye(24)[:9], torch.ones(9)), expected)


def test_pairs_are_multiplied_as_if_concatenated(x: Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(24, 48, generator=generator), torch.randn(24, generator=generator)
    other = x.flip(2)
    z = torch.cat([x, other], -1).double() @ weight.double().T + bias.double()
    assert close(reference.pair_linear(x, other, weight, bias), z)
    assert close(reference.fuse_cached(x, other, weight, bias), z * z.sigmoid())
    narrow = weight[:, :31]
    z = torch.cat([x, other[..., :7]], -1).double() @ narrow.double().T + bias.double()
    assert close(reference.pair_linear(x, other[..., :7], narrow, bias), z)


def test_streams_have_linears_of_their_own(x: Tensor) -> None:
    generator = torch.Generator().manual_seed(4)
    weights, biases = (
        torch.randn(2, 5, 24, generator=generator),
        torch.randn(2, 5, generator=generator),
    )
    img, txt = x[:, :4], x[:, 4:]
    joint = reference.joint_linear(img, txt, weights[0], biases[0], weights[1], biases[1])
    of_row = (torch.arange(7) >= 4).long()
    expected = torch.einsum("bsk,snk->bsn", x.double(), weights[of_row].double())
    assert close(joint, expected + biases[of_row].double())
    assert torch.equal(reference.join_tokens(img, txt), x)


def test_unpatchify_is_nthwcopq_to_nctohpwq() -> None:
    n, (t, h, w), c, (o, p, q) = 2, (2, 3, 4), 5, (1, 2, 3)
    tokens = torch.randn(n, t * h * w, c * o * p * q)
    expected = tokens.reshape(n, t, h, w, c, o, p, q)
    expected = torch.einsum("nthwcopq->nctohpwq", expected)
    expected = expected.reshape(n, c, t * o, h * p, w * q)
    assert torch.equal(reference.unpatchify(tokens, (t, h, w), (o, p, q)), expected)


def test_euler_step_and_guidance_are_fp32() -> None:
    latents = torch.randn(2, 5, 2, 6, 4)
    patches, uncond = torch.randn(2, 2, 24, 10).bfloat16()
    grid, patch, dt = (2, 6, 2), (1, 1, 2), torch.tensor(-0.25)
    stepped = reference.euler_step(latents, patches, None, 1.0, dt, grid, patch)
    assert stepped.dtype == torch.float32
    velocity = reference.unpatchify(patches.double(), grid, patch)
    assert close(stepped, latents.double() - 0.25 * velocity)
    other = reference.unpatchify(uncond.double(), grid, patch)
    guided = reference.euler_step(latents, patches, uncond, 6.0, dt, grid, patch)
    assert close(guided, latents.double() - 0.25 * (other + 6 * (velocity - other)))


def test_head_is_the_linear_of_the_modulated_norm(x: Tensor) -> None:
    shift, scale = vectors(2)
    weight, bias = torch.randn(5, 24), torch.randn(5)
    normed = layer_norm64(x) * (1 + scale.double()[:, None]) + shift.double()[:, None]
    expected = normed @ weight.double().T + bias.double()
    assert close(reference.head(x, shift, scale, weight, bias), expected)


def test_relative_l1(x: Tensor) -> None:
    other = x.flip(1)
    expected = (x - other).double().abs().sum() / other.double().abs().sum()
    assert close(reference.relative_l1(x, other), expected)


def test_finite_differences_and_forecast_continue_a_polynomial() -> None:
    """t² at 1, 3 and 5: its divided differences, then Taylor's series from them."""
    factors = torch.full((3, 2, 3), float("nan"))
    for known, t in ((1, 1.0), (2, 3.0), (3, 5.0)):
        reference.finite_differences(factors, torch.full((2, 3), t * t), 2.0, known)
    assert [factors[i, 0, 0].item() for i in range(3)] == [25, 8, 2]
    assert reference.forecast(factors, [1.0, 2.0, 2.0])[0, 0] == 25 + 2 * 8 + 2 * 2
    assert reference.forecast(factors, [1.0])[0, 0] == 25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ops_keep_the_dtype_they_are_given(x: Tensor, dtype: torch.dtype) -> None:
    shift, scale = vectors(2).to(dtype)
    low = x.to(dtype)
    out = reference.layer_norm_modulate(low, shift, scale)
    expected = layer_norm64(low) * (1 + scale.double()[:, None]) + shift.double()[:, None]
    assert out.dtype == dtype
    assert close(out, expected, 4 * torch.finfo(dtype).eps)


def test_every_implementation_has_every_op() -> None:
    for row in IMPLEMENTATIONS.values():
        for op in Ops._fields:
            ours, theirs = (
                inspect.signature(each).parameters
                for each in (getattr(row(torch.device("cpu")), op), getattr(reference, op))
            )
            assert ours == theirs, op


def test_unknown_ops_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ops must be one of .*'triton'\], got 'cutlass'"):
        get_ops("cutlass")


@pytest.mark.parametrize(
    ("has_gpu", "device", "message"),
    [
        (False, "cuda", "ops 'triton' need a GPU, and there is none; choose 'reference'"),
        (True, "cpu", "ops 'triton' run on a GPU, got device 'cpu'; choose device 'cuda', or ops"),
    ],
)
def test_kernels_are_refused_where_they_cannot_run(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, device: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=message):
        get_ops("triton", device)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert get_ops("triton", device)
