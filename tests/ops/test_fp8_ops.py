"""Ops of FP8: each rounding within what e4m3 can hold, against fp64; kernels against the same."""

import pytest
import torch
from torch import Tensor

from disca_rt.kernels import fp8_reference, reference
from disca_rt.kernels.ops import Ops, get_ops
from disca_rt.kernels.quantized import E4M3, LARGEST, Quantized, quantized_buffer
from ops import oracle

INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has tests of its own")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF_STEP = 2.0**-4  # of a value, from 2⁻⁶ of the scale on
LEAST_STEP = 2.0**-10  # of the scale, below
SLACK = 2.0**-9  # of a value: inputs of 16 bits, sums in another order


@pytest.fixture(params=["reference", "triton"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return get_ops(request.param, DEVICE)


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    """Values over ten powers of two, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.logspace(-8, 2, shape[-1], 2)
    return (x * (x.abs() > 1e-3)).to(dtype).to(DEVICE)


def check(rows: Quantized, expected: Tensor, slack: float = SLACK) -> None:
    """Compare with fp64 `expected`: scales by each row's largest value, values by a rounding."""
    largest = expected.abs().amax(-1, keepdim=True)
    assert rows.values.dtype == E4M3
    torch.testing.assert_close(rows.scale.double() * LARGEST, largest, rtol=slack, atol=1e-30)
    error = (rows.values.double() * rows.scale.double() - expected).abs()
    bound = (HALF_STEP + slack) * expected.abs() + (LEAST_STEP + slack) * rows.scale.double()
    assert (error <= bound).all(), (error / bound).max()


@pytest.mark.parametrize("width", [24, 112, 1000])
@pytest.mark.parametrize("rows", [1, 7])
def test_layer_norm_modulate_quantize(ops: Ops, rows: int, width: int) -> None:
    x, modulation = drawn(2, rows, width), drawn(2, 2 * width, seed=1)
    args = x, *modulation.chunk(2, -1)
    check(ops.layer_norm_modulate_quantize(*args), oracle.layer_norm_modulate(*args))


def test_gate_residual_layer_norm_modulate_quantize(ops: Ops) -> None:
    x, branch, modulation = drawn(2, 7, 112), drawn(2, 7, 112, seed=1), drawn(2, 336, seed=2)
    gate, shift, scale = modulation.chunk(3, -1)
    joint = torch.full((2, 12, 112), float("nan"), dtype=x.dtype, device=DEVICE)
    normed = quantized_buffer(x, (2, 12, 112))
    out = joint[:, 3:10], Quantized(*(each[:, 3:10] for each in normed))
    residual, rows = ops.gate_residual_layer_norm_modulate_quantize(
        x, branch, gate, shift, scale, out=out
    )
    plain = reference.gate_residual(x, branch, gate)
    assert (residual.float() - plain.float()).abs().max() <= 2**-7 * plain.abs().max()
    check(rows, oracle.layer_norm_modulate(residual, shift, scale))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("widths", [(48,), (24, 96), (112, 448), (1, 1000)])
def test_quantize_joint(ops: Ops, widths: tuple[int, ...], gelu: bool) -> None:
    *before, last = (drawn(2, 7, 2 * w, seed=w)[..., :w] for w in widths)
    expected = oracle.gelu(last) if gelu else last.double()
    expected = torch.cat([*(each.double() for each in before), expected], dim=-1)
    rows = ops.quantize_joint(*before, last, gelu=gelu)
    check(rows, expected)
    if not gelu:
        same = fp8_reference.quantize_joint(*before, last)
        assert torch.equal(rows.values.float(), same.values.float())


def test_rows_of_zeros_stay(ops: Ops) -> None:
    rows = ops.quantize_joint(torch.zeros(1, 3, 16, device=DEVICE))
    assert not rows.decoded().any()
    assert (rows.scale > 0).all()


@pytest.mark.parametrize("count", [1, 5])
def test_rms_norm_rope_quantize(ops: Ops, count: int) -> None:
    x = drawn(2, 7, 6, 16)[:, :, :count]
    generator = torch.Generator().manual_seed(3)
    angles = torch.rand(4, 8, generator=generator) * 6
    cos, sin = angles.cos().to(DEVICE), angles.sin().to(DEVICE)
    weights = [drawn(16, seed=4), drawn(16, seed=5)]
    scale = fp8_reference.rope_scale(*weights)
    out = ops.rms_norm_rope_quantize(x.clone(), *weights, cos, sin, scale)
    expected = oracle.rms_norm_rope(x, *weights, cos, sin)
    assert out.dtype == E4M3
    assert (expected.abs() <= scale.double() * LARGEST * (1 + 1e-6)).all(), "the bound holds"
    error = (out.double() * scale.double() - expected).abs()
    bound = (HALF_STEP + SLACK) * expected.abs() + (LEAST_STEP + SLACK) * scale.double()
    assert (error <= bound).all()


def test_the_bound_of_a_norm_is_reached() -> None:
    x, weight = torch.zeros(1, 1, 1, 16, device=DEVICE), torch.ones(16, device=DEVICE)
    x[..., 0], x[..., 1] = 3.0, 3.0
    turned = torch.full((1, 8), 0.5**0.5, device=DEVICE)
    scale = fp8_reference.rope_scale(weight)
    out = reference.rms_norm_rope_quantize(x, weight, weight, turned, turned, scale)
    assert out.float().abs().max() == LARGEST


@pytest.mark.parametrize("of_all", [False, True])
def test_heads_are_scaled_by_the_first_values(ops: Ops, of_all: bool) -> None:
    first, later = drawn(2, 70, 6, 16)[:, :, :5], drawn(2, 70, 5, 16, seed=1)
    scale = torch.zeros(2, 1 if of_all else 5, device=DEVICE)
    ops.scale_heads(first, scale)
    largest = first.double().abs().amax((1, 3))
    largest = largest.amax(1, keepdim=True) if of_all else largest
    expected = largest * fp8_reference.HEADROOM / LARGEST
    torch.testing.assert_close(scale.double(), expected, rtol=1e-6, atol=0)
    kept = scale.clone()
    ops.scale_heads(100 * later, scale)
    assert torch.equal(scale, kept)
    out = ops.quantize_heads(later, scale).double() * scale.double()[:, None, :, None]
    error = (out - later.double()).abs()
    bound = (HALF_STEP + SLACK) * later.double().abs() + LEAST_STEP * scale.double()[
        :, None, :, None
    ]
    assert (error <= bound).all()


def test_values_beyond_a_scale_are_cut(ops: Ops) -> None:
    x, scale = torch.full((1, 2, 3, 16), -1e4, device=DEVICE), torch.ones(1, 3, device=DEVICE)
    assert (ops.quantize_heads(x, scale).float() == -LARGEST).all()


def test_every_value_of_e4m3_is_hit(ops: Ops) -> None:
    """Each of the 253 finite ones, those between two, and a little beside either."""
    bits = torch.arange(256, dtype=torch.uint8)
    values = bits.view(E4M3).float()
    values = values[values.isfinite()].sort().values
    middles = (values[1:] + values[:-1]) / 2
    near = torch.cat([middles, middles * (1 + 2e-7), middles * (1 - 2e-7), values])
    x = near.reshape(1, 1, 1, -1).to(DEVICE)
    out = ops.quantize_heads(x, torch.ones(1, 1, device=DEVICE))
    assert torch.equal(out.float(), x.to(E4M3).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_linear(ops: Ops, dtype: torch.dtype) -> None:
    x = fp8_reference.quantize_rows(drawn(2, 7, 32))
    weight = fp8_reference.quantize_rows(drawn(1, 48, 32, seed=1))
    bias = drawn(48, dtype=dtype, seed=2)
    out = ops.scaled_linear(x, weight.values[0], weight.scale[0], bias)
    exact = x.decoded().double() @ weight.decoded()[0].double().T + bias.double()
    assert out.dtype == dtype
    assert ((out.double() - exact).norm() / exact.norm()) <= 2 * torch.finfo(dtype).eps


def test_wrong_memory_is_refused() -> None:
    ops, x = get_ops("triton", DEVICE), drawn(1, 3, 16)
    vector = drawn(1, 16)
    out = quantized_buffer(x, (1, 4, 16))
    with pytest.raises(ValueError, match=r"out must be \[1, 3, 16\] with a scale a row"):
        ops.layer_norm_modulate_quantize(x, vector, vector, out=out)
    with pytest.raises(ValueError, match="scale must be one, or one of 2 heads, got 3"):
        ops.quantize_heads(drawn(1, 3, 2, 8), torch.ones(1, 3, device=DEVICE))
