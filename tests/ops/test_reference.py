"""The reference ops against their definitions in fp64, written out independently."""

import inspect

import pytest
import torch

from disca_rt.kernels import reference
from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.kernels.ops import IMPLEMENTATIONS, OP_NAMES, get_ops
from ops import oracle
from ops.test_fused import Make, error

FP32 = 2e-6  # relative; sums of up to a few hundred terms


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("name", [op for op in OP_ROWS if hasattr(oracle, op)])
def test_ops_are_their_definitions(name: str, rows: int) -> None:
    args = OP_ROWS[name].arguments(Make(torch.float32, rows, 24))
    results, exact = (getattr(module, name)(*args) for module in (reference, oracle))
    pairs = zip(results, exact, strict=True) if isinstance(exact, tuple) else [(results, exact)]
    assert all(error(result, expected) <= FP32 for result, expected in pairs)


def test_streams_are_joined() -> None:
    x = Make(torch.float32).tokens()
    assert torch.equal(reference.join_tokens(x[:, :4], x[:, 4:]), x)


def test_unpatchify_is_nthwcopq_to_nctohpwq() -> None:
    n, (t, h, w), c, (o, p, q) = 2, (2, 3, 4), 5, (1, 2, 3)
    tokens = torch.randn(n, t * h * w, c * o * p * q)
    expected = tokens.reshape(n, t, h, w, c, o, p, q)
    expected = torch.einsum("nthwcopq->nctohpwq", expected)
    expected = expected.reshape(n, c, t * o, h * p, w * q)
    assert torch.equal(reference.unpatchify(tokens, (t, h, w), (o, p, q)), expected)


@pytest.mark.parametrize("is_guided", [False, True])
def test_euler_step_and_guidance_are_fp32(is_guided: bool) -> None:
    latents, patches, uncond, *others = OP_ROWS["euler_step"].arguments(Make(torch.bfloat16))
    args = latents, patches, uncond if is_guided else None, *others
    stepped = reference.euler_step(*args)
    assert stepped.dtype == torch.float32
    assert error(stepped, oracle.euler_step(*args)) <= FP32


def test_finite_differences_and_forecast_continue_a_polynomial() -> None:
    """t² at 1, 3 and 5: its divided differences, then Taylor's series from them."""
    factors = torch.full((3, 2, 3), float("nan"))
    for known, t in ((1, 1.0), (2, 3.0), (3, 5.0)):
        numbers = torch.tensor([2.0, known])
        reference.finite_differences(factors, torch.full((2, 3), t * t), numbers)
        assert (factors[known:] == 0).all(), "orders that are not known yet"
    assert [factors[i, 0, 0].item() for i in range(3)] == [25, 8, 2]
    assert reference.forecast(factors, torch.tensor([1.0, 2, 2]))[0, 0] == 25 + 2 * 8 + 2 * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ops_keep_the_dtype_they_are_given(dtype: torch.dtype) -> None:
    args = OP_ROWS["layer_norm_modulate"].arguments(Make(dtype))
    out = reference.layer_norm_modulate(*args)
    assert out.dtype == dtype
    assert error(out, oracle.layer_norm_modulate(*args)) <= 4 * torch.finfo(dtype).eps


def test_every_implementation_has_every_op() -> None:
    for row in IMPLEMENTATIONS.values():
        for op in OP_NAMES:
            ours, theirs = (
                inspect.signature(each).parameters
                for each in (getattr(row(torch.device("cpu")), op), getattr(reference, op))
            )
            assert ours == theirs, op


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
