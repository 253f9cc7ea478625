"""Registered ops: schema, fake, and the refusal of forward-mode derivatives."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from disca_rt.kernels.registration import register_op


@register_op()
def doubled(x: Tensor) -> Tensor:
    """Twice x."""
    return 2 * x


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@register_op(mutates=["out"])
def doubled_into(x: Tensor, out: Tensor) -> None:
    out.copy_(2 * x)


def test_a_registered_op_runs_and_passes_opcheck() -> None:
    assert torch.equal(doubled(torch.ones(3)), torch.full((3,), 2.0))
    assert doubled.__doc__ == "Twice x."
    torch.library.opcheck(doubled.overload, (torch.randn(3),))
    torch.library.opcheck(doubled_into.overload, (torch.randn(3), torch.empty(3)))
    with torch.device("meta"):
        assert doubled(torch.empty(5)).shape == (5,)


def test_forward_mode_is_refused_instead_of_taken_for_zero() -> None:
    x, tangent = torch.ones(3), torch.ones(3)
    raw = doubled._op
    assert not torch.func.jvp(raw, (x,), (tangent,))[1].any()  # what PyTorch does without a check
    with pytest.raises(RuntimeError, match="op doubled has no forward-mode derivative"):
        torch.func.jvp(doubled, (x,), (tangent,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="ops 'reference'"):
        doubled(x=forward_ad.make_dual(x, tangent))
    with pytest.raises(RuntimeError, match="op doubled_into"):
        torch.func.jvp(lambda y: doubled_into(y, torch.empty(3)), (x,), (tangent,))


@register_op()
def summed(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


def test_a_tangent_in_a_list_is_seen() -> None:
    x = torch.ones(3)
    assert torch.equal(summed([x, x]), 2 * x)
    with pytest.raises(RuntimeError, match="op summed has no forward-mode derivative"):
        torch.func.jvp(lambda y: summed([y, x]), (x,), (x,))


def test_inputs_that_carry_no_tangent_are_fine_within_forward_mode() -> None:
    weight = torch.ones(3)
    value, derivative = torch.func.jvp(
        lambda x: x * doubled(weight), (torch.ones(3),), (torch.ones(3),)
    )
    assert torch.equal(value, derivative)
