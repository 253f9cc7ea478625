"""Groups of rows with vectors of their own: each group's result is that of its rows alone."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from disca_rt.kernels.ops import Ops, get_ops
from disca_rt.models.row_groups import (
    gate_residual,
    gate_residual_layer_norm_modulate,
    layer_norm_modulate,
)
from disca_rt.tokens import RowVectors, of_text

BATCH, ROWS, WIDTH = 2, 7, 24
STARTS = [(0,), (3,), (7,), (2, 5), (2, 2)]
INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="these tensors are on the CPU")


@pytest.fixture(params=["reference", pytest.param("triton", marks=INTERPRETED)])
def ops(request: pytest.FixtureRequest) -> Ops:
    return get_ops(request.param, "cpu")


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(seed: int) -> Tensor:
    """Rows as a view of more, as image rows of a joint tensor are."""
    return random(seed, BATCH, ROWS + 2, WIDTH)[:, 1:-1]


def vectors(seed: int, starts: tuple[int, ...]) -> RowVectors:
    return RowVectors(random(seed, BATCH, len(starts) + 1, WIDTH), starts)


def all_three(ops: Ops, vector: tuple, x: Tensor, branch: Tensor) -> list[Tensor]:
    gate, shift, scale = vector
    normed = layer_norm_modulate(ops, x, shift, scale)
    both = gate_residual_layer_norm_modulate(ops, x, branch, gate, shift, scale)
    return [normed, gate_residual(ops, x, branch, gate), *both]


@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_each_group_is_its_rows_alone(ops: Ops, starts: tuple[int, ...]) -> None:
    x, branch, vector = rows(1), rows(2), [vectors(seed, starts) for seed in (3, 4, 5)]
    together = all_three(ops, tuple(vector), x, branch)
    bounds = (0, *starts, ROWS)
    for group, (start, stop) in enumerate(pairwise(bounds)):
        own = tuple(each.values[:, group] for each in vector)
        alone = all_three(ops, own, x[:, start:stop], branch[:, start:stop])
        for whole, part in zip(together, alone, strict=True):
            assert torch.equal(whole[:, start:stop], part)


@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_groups_of_one_vector_are_one_group(ops: Ops, starts: tuple[int, ...]) -> None:
    same = tuple(random(seed, BATCH, WIDTH) for seed in (3, 4, 5))
    apart = tuple(
        RowVectors(each[:, None].expand(-1, len(starts) + 1, -1), starts) for each in same
    )
    plain, grouped = (all_three(ops, each, rows(1), rows(2)) for each in (same, apart))
    assert all(map(torch.equal, plain, grouped))
    assert all(torch.equal(of_text(a), b) for a, b in zip(apart, same, strict=True))


def test_a_result_is_where_it_is_wanted(ops: Ops) -> None:
    gate, out = vectors(3, (3,)), torch.full((BATCH, ROWS, WIDTH), torch.nan)
    wanted = gate_residual(ops, rows(1), rows(2), gate)
    result = gate_residual(ops, rows(1), rows(2), gate, out=out)
    assert torch.equal(result, wanted)
    assert (result is out) == (ops is not get_ops("reference")), "which works in no place"


def test_gradients_of_vectors_are_those_of_each_row(ops: Ops) -> None:
    x, branch = rows(1), rows(2)
    vector = [vectors(seed, (3,)) for seed in (3, 4, 5)]
    for each in vector:
        each.values.requires_grad_()
    weights = [random(9 + i, BATCH, ROWS, WIDTH) for i in range(4)]
    results = all_three(ops, tuple(vector), x, branch)
    sum((a * b).sum() for a, b in zip(results, weights, strict=True)).backward()
    counts = torch.tensor([3, ROWS - 3])
    gate, shift, scale = (each.values.detach().repeat_interleave(counts, 1) for each in vector)
    for each in (gate, shift, scale):
        each.requires_grad_()
    residual = x + gate * branch
    normed, again = (F.layer_norm(each, (WIDTH,), eps=1e-6) for each in (x, residual))
    written_out = [each * (1 + scale) + shift for each in (normed, again)]
    expected = [written_out[0], residual, residual, written_out[1]]
    sum((a * b).sum() for a, b in zip(expected, weights, strict=True)).backward()
    for each, of_rows in zip(vector, (gate, shift, scale), strict=True):
        groups = [part.sum(1) for part in of_rows.grad.split([3, ROWS - 3], dim=1)]
        assert torch.allclose(each.values.grad, torch.stack(groups, 1), atol=1e-5)


@pytest.mark.parametrize("cuts", [(0, 7), (0, 2, 7), (0, 3, 3, 7), (0, 1, 4, 5, 7)], ids=str)
def test_shares_of_ranks_have_the_vectors_of_their_rows(cuts: tuple[int, ...]) -> None:
    whole = vectors(1, (3, 5))
    shares = [range(*pair) for pair in pairwise(cuts)]
    parts = [of_each_row(whole.of_share(share), len(share)) for share in shares]
    assert torch.equal(torch.cat(parts, 1), of_each_row(whole, ROWS))


def of_each_row(vector: RowVectors, count: int) -> Tensor:
    bounds = torch.tensor([0, *vector.starts, count])
    return vector.values.repeat_interleave(bounds.diff(), dim=1)
