"""A kind of linear that no model knows of: a weight and a low-rank term, never added up."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from disca_rt.kernels.ops import get_ops
from disca_rt.models.blocks import run_blocks
from disca_rt.models.dit import DiT
from disca_rt.models.linear import ALL, EncodedLinear, Linear, qkv_linear, replace_linears
from disca_rt.weights.load import load_dit, load_predictor
from golden_vectors import NAMES, Golden, load_golden, relative_error

RANK = 3
INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="these tensors are on the CPU")
EXACT = 2e-6  # the same sums in another order, fp32


class LowRank(EncodedLinear):
    """`weight + up·down`, as a LoRA that is not merged."""

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear)
        self.weight = linear.weight
        generator = torch.Generator().manual_seed(linear.in_features)
        down = torch.randn(RANK, linear.in_features, generator=generator)
        up = torch.randn(linear.out_features, RANK, generator=generator)
        self.down = nn.Parameter(down * linear.in_features**-0.5, requires_grad=False)
        self.up = nn.Parameter(up * 0.1, requires_grad=False)

    def dense(self, rows: slice = ALL) -> None:
        return None

    def product(self, x: Tensor, rows: slice = ALL) -> Tensor:
        plain = nn.functional.linear(x, self.weight[rows], self.bias[rows])
        return plain + (x @ self.down.T) @ self.up[rows].T


def merged(linear: Linear) -> Linear:
    """The same, added up."""
    term = LowRank(linear)
    linear.weight = nn.Parameter(linear.weight + term.up @ term.down, requires_grad=False)
    return linear


def models(golden: Golden, ops: str, kind: Callable[[Linear], Linear] | None) -> list[nn.Module]:
    built = {"dtype": torch.float32, "ops": get_ops(ops, "cpu")}
    dit = load_dit(golden.dit, **built)
    predictor = load_predictor(golden.predictor, dit.config, **built)
    if kind is not None:
        replace_linears((dit, predictor), kind)
    return [dit, predictor]


def steps(dit: DiT, predictor: nn.Module, golden: Golden) -> list[Tensor]:
    """A full step, and a predicted one from what it leaves."""
    prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
    embedded, context = dit.embed(golden.io["latents"], golden.step_inputs(3), prepared)
    tokens = run_blocks(dit.blocks, embedded, context)
    predicted = predictor(embedded, tokens, context)
    return [tokens, *(dit.head(each, context) for each in (tokens, predicted))]


OPS = ["reference", pytest.param("triton", marks=INTERPRETED)]


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("name", NAMES)
def test_a_linear_that_is_not_dense(name: str, ops: str) -> None:
    golden = load_golden(name)
    ours, expected, plain = (
        steps(*models(golden, *built), golden)
        for built in ((ops, LowRank), ("reference", merged), ("reference", None))
    )
    for mine, theirs, without in zip(ours, expected, plain, strict=True):
        assert relative_error(mine, theirs) <= EXACT
        assert relative_error(without, theirs) > 1e-2, "the term should matter"


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("kind", [LowRank, merged])
def test_pieces_of_rows_are_joined(ops: str, kind: Callable[[Linear], Linear]) -> None:
    """The MLP half of a single-stream block comes so where attention has to wait."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 7, width, generator=generator) for width in (8, 12))
    linear, pair_linear = kind(Linear(20, 6)), get_ops(ops, "cpu").pair_linear
    with torch.no_grad():
        whole = pair_linear(first, [second], linear)
        pieces = pair_linear(first, [second[:, :4], second[:, 4:]], linear)
        expected = linear(torch.cat([first, second], dim=-1))
    assert relative_error(pieces, whole) <= EXACT
    assert relative_error(whole, expected) <= EXACT


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", [LowRank, merged])
def test_a_product_in_a_buffer_is_the_product(kind: Callable[[Linear], Linear], batch: int) -> None:
    """Of whole rows, of a slice of a sample's, and of what halves of the inputs add to it."""
    linear = kind(Linear(20, 6))
    x = torch.randn(batch, 9, 20, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for given in (x, x[:, 2:7]):
            out = torch.full((batch, given.shape[1], 6), float("nan"))
            product = linear.into(given, out)
            assert relative_error(product, linear(given)) <= EXACT
            assert (product is out) == (kind is merged), "a linear that is not dense ignores it"
            first, second = slice(8), slice(8, None)
            shares = [
                linear.share(given[..., columns], columns, is_second, torch.empty_like(out))
                for is_second, columns in enumerate((first, second))
            ]
            assert relative_error(sum(shares), linear(given)) <= EXACT


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("ops", OPS)
def test_a_pair_in_a_buffer_is_the_product(ops: str, pieces: int) -> None:
    linear, pair_linear = Linear(20, 6), get_ops(ops, "cpu").pair_linear
    first, second = torch.randn(2, 9, 8), torch.randn(2, 9, 12)
    out = torch.full((2, 9, 6), float("nan"))
    with torch.inference_mode():
        product = pair_linear(first, second.tensor_split(pieces, dim=1), linear, out)
        assert relative_error(product, linear(torch.cat([first, second], -1))) <= EXACT
    assert (product is out) == (ops == "triton" or pieces == 1)


def test_a_product_with_a_gradient_is_in_no_buffer() -> None:
    linear, x = Linear(20, 6), torch.randn(1, 9, 20, requires_grad=True)
    product = linear.into(x, torch.empty(1, 9, 6))
    product.sum().backward()
    assert relative_error(x.grad, linear.weight.sum(0).expand(1, 9, -1)) <= EXACT


def test_a_linear_goes_with_its_last_reference() -> None:
    linear = qkv_linear(4)
    weight = weakref.ref(linear.weight)
    gc.disable()
    try:
        del linear
        assert weight() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_rows_of_a_copy_are_the_copys_own(copied: Callable[[Linear], Linear]) -> None:
    linear = qkv_linear(4)
    other, x = copied(linear), torch.ones(1, 4)
    assert torch.equal(other.rows["k"](x), linear.rows["k"](x))
    with torch.no_grad():
        linear.weight.zero_(), linear.bias.zero_()
    assert not linear.rows["k"](x).any()
    assert other.rows["k"](x).any()


def test_rows_are_compiled_without_a_break() -> None:
    linear, x = qkv_linear(4), torch.ones(1, 4)
    compiled = torch.compile(lambda x: linear.rows["v"](x), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), linear.rows["v"](x))
