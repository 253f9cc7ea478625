"""Gradients of the fused ops: the reference's, whatever the strides, dtypes and compilers."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from disca_rt.kernels import reference
from disca_rt.kernels.gradients import RECOMPUTED
from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.kernels.ops import OP_NAMES
from ops.test_fused import DEVICE, Args, Make, error, fused

TRAINS = torch.float32, torch.bfloat16


FP8 = {name for name in OP_NAMES if "quantize" in name or name.startswith("scale")}
NONE = {"buffer", "unpatchify", "finite_differences", *FP8}
"""Ops of no gradient: of memory alone, on no fused path, of caches alone, and of FP8."""

NAMES = [name for name in OP_NAMES if name not in NONE]


def arguments(name: str, dtype: torch.dtype = torch.float32) -> Args:
    make = Make(dtype)
    return (make.img(), make.txt()) if name == "join_tokens" else OP_ROWS[name].arguments(make)


FUSED = fused()


def differentiated(args: Args) -> Args:
    """Leaves that want gradients, in the strides of `args`."""
    return tuple(
        each.detach().requires_grad_(each.is_floating_point()) if isinstance(each, Tensor) else each
        for each in args
    )


def gradients(op: Callable[..., Any], args: Args, seed: int = 0) -> tuple[Sequence[Tensor], ...]:
    """Results, and the gradients of a random sum of them by every floating-point argument."""
    args = differentiated(args)
    results = tree_leaves(op(*args))
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(r.shape, generator=generator).to(r) for r in results]
    wanted = [each for each in args if isinstance(each, Tensor) and each.requires_grad]
    return results, torch.autograd.grad(results, wanted, weights)


def test_every_op_is_differentiable_but_the_one_that_is_of_caches_alone() -> None:
    assert set(RECOMPUTED) < set(NAMES)
    assert len(RECOMPUTED) == 12


@pytest.mark.parametrize("dtype", TRAINS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_reference_s(name: str, dtype: torch.dtype) -> None:
    args = arguments(name, dtype)
    before = [each.clone() for each in args if isinstance(each, Tensor)]
    _, ours = gradients(getattr(FUSED, name), args)
    _, theirs = gradients(getattr(reference, name), args)
    for mine, expected in zip(ours, theirs, strict=True):
        assert torch.equal(mine, expected)
        assert mine.any()
    kept = [each for each in args if isinstance(each, Tensor)]
    assert all(map(torch.equal, kept, before))  # also where the op may work in place


@pytest.mark.parametrize("op", RECOMPUTED)
def test_forward_is_the_kernel_s(op: str) -> None:
    args = arguments(op)
    results, _ = gradients(getattr(FUSED, op), args)
    with torch.no_grad():
        copies = [each.clone() if isinstance(each, Tensor) else each for each in args]
        expected = tree_leaves(getattr(FUSED, op)(*copies))
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize("name", NAMES)
def test_compilers_take_both_directions_without_a_break(name: str) -> None:
    args, op = arguments(name), getattr(FUSED, name)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *args: op(*args), fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, args), gradients(op, args), strict=True):
        for mine, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-6)


def test_where_results_would_be_welcome_is_ignored() -> None:
    make = Make(torch.float32)
    img, txt, branches = make.tensor(2, 5, 32), make.tensor(2, 2, 32), make.tensor(2, 7, 32)
    gate = make.vector(32)

    def joined(ops: ModuleType, branches: Tensor) -> Tensor:
        joint = ops.buffer(img, (2, 7, 32))
        outs = (None, None) if joint is None else joint.split([5, 2], dim=1)
        parts = zip((img, txt), branches.split([5, 2], dim=1), outs, strict=True)
        sums = [ops.gate_residual(x, branch, gate, out=out) for x, branch, out in parts]
        return ops.join_tokens(*sums, out=joint)

    ours, theirs = (
        gradients(lambda b, ops=ops: joined(ops, b), (branches,)) for ops in (FUSED, reference)
    )
    assert error(ours[0][0], theirs[0][0].double()) < 1e-6
    assert torch.equal(ours[1][0], theirs[1][0])


def test_autocast_chooses_dtypes_as_it_does_for_the_reference() -> None:
    """A world of one in bf16: fp32 weights, backward outside of autocast."""
    make = Make(torch.float32)
    x, weights = make.tensor(2, 7, 32), (make.tensor(32, 32), make.tensor(32))
    norm, heads = (make.tensor(32), make.tensor(32)), (make.tensor(8), make.tensor(8))
    angles = make.tensor(5, 4, dtype=torch.float32)

    def through(ops: ModuleType, x: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias, scale, shift, q_norm, k_norm = parameters
        with torch.autocast(DEVICE.type, torch.bfloat16):
            x = ops.joint_linear(x[:, :5], x[:, 5:], weight, bias, weight, bias)
            x = ops.layer_norm(x, scale, shift).unflatten(-1, (4, 8))
            x = ops.rms_norm_rope(x, q_norm, k_norm, angles.cos(), angles.sin()).flatten(2)
            x = ops.linear_gelu(x, weight, bias)
            return ops.pair_linear(x, x, torch.cat([weight, weight], 1), bias).float()

    args = (x, *weights, *norm, *heads)
    (ours, our_gradients), (theirs, their_gradients) = (
        gradients(lambda *args, ops=ops: through(ops, *args), args) for ops in (FUSED, reference)
    )
    assert error(ours[0], theirs[0].double()) < 0.03
    for mine, expected in zip(our_gradients, their_gradients, strict=True):
        assert mine.dtype == torch.float32
        assert error(mine, expected.double()) < 0.03
    with torch.no_grad():
        assert error(through(FUSED, *args), theirs[0].double()) < 0.03


def test_second_derivatives_are_refused() -> None:
    x, weight, bias = differentiated(arguments("layer_norm"))
    total = FUSED.layer_norm(x, weight, bias).square().sum()
    with pytest.raises(RuntimeError, match="op layer_norm has no second derivative"):
        torch.autograd.grad(total, x, create_graph=True)


@pytest.mark.parametrize("name", NAMES)
def test_tangents_are_refused_also_beside_gradients(name: str) -> None:
    first, *others = differentiated(arguments(name))
    with pytest.raises(RuntimeError, match=rf"op {name} has no forward-mode derivative"):
        torch.func.jvp(lambda x: getattr(FUSED, name)(x, *others), (first,), (first.detach(),))
