"""Plans of block-sparse attention: each is attention under its mask, by the reference op."""

import math

import pytest
import torch
from torch import Tensor

from disca_rt.attention.block_plans import attend_by, listed, of_block_mask, of_spans
from disca_rt.attention.masks import SpanMask, Window
from disca_rt.attention.protocol import AttentionInputs
from disca_rt.attention.some_keys import attend, attend_within
from disca_rt.cache.stand_ins.head_masks import Checkerboard, Near
from disca_rt.kernels.key_blocks import KeyBlocks
from disca_rt.tokens import TokenLayout
from golden_vectors import relative_error
from ops.test_fused import DEVICE, fused

INPUTS = "q", "k", "v", "valid"
CPU = torch.device("cpu")
GRID, TEXT = (3, 5, 4), 3
IMG, TOKENS = math.prod(GRID), math.prod(GRID) + TEXT
MASKS = [
    Window(4, IMG, TOKENS),
    Near(GRID, TOKENS, 1, None),
    Near(GRID, TOKENS, None, 2),
    Near(GRID, TOKENS, 1, 1),
    Near(GRID, TOKENS, None, 0),
    Checkerboard(GRID, TOKENS),
]


def inputs(tokens: int = TOKENS, img: int = IMG, grid: tuple[int, int, int] = GRID):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, tokens, 2, 4, generator=generator) for _ in range(3))
    valid = torch.ones(2, tokens, dtype=torch.bool)
    valid[1, tokens - 1 :] = False
    return AttentionInputs(q, k, v, valid, TokenLayout(img, None, grid=grid), lambda *_: q)


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_a_masks_plan_is_attention_under_it(mask: SpanMask) -> None:
    plan = of_spans(mask, CPU)
    expected = attend(inputs(), mask)
    assert relative_error(attend_by(plan, inputs()), expected) <= 1e-6
    assert relative_error(attend_within(inputs(), mask), expected) <= 1e-6
    queries = plan.queries[plan.queries >= 0].sort().values
    assert torch.equal(queries, torch.arange(TOKENS, dtype=torch.int32)), "each once"
    assert of_spans(mask, CPU) is plan, "captured steps read it"


@pytest.mark.parametrize("mask", [MASKS[1], MASKS[2]], ids=str)
def test_heads_of_another_mask_are_left_as_they_are(mask: SpanMask) -> None:
    heads, before = (
        torch.tensor([[True, False], [False, False]]),
        torch.full((2, TOKENS, 2, 4), 3.0),
    )
    of_heads = heads[:, None, :, None]
    expected = attend(inputs(), mask).where(of_heads, before)
    found = attend_within(inputs(), mask, heads, before.clone())
    by_plan = attend_by(of_spans(mask, CPU), inputs(), heads, before.clone())
    for each in (found, by_plan):
        assert relative_error(each, expected) <= 1e-6
        assert torch.equal(each[1], before[1])


@pytest.mark.parametrize("mask", [MASKS[2]], ids=str)
def test_the_kernel_takes_a_masks_plan(mask: SpanMask) -> None:
    """Interpreted where there is no GPU; there it is what `attend_within` calls."""
    of = inputs()._replace(**{name: getattr(inputs(), name).to(DEVICE) for name in INPUTS})
    plan = of_spans(mask, DEVICE)
    lengths = of.valid.sum(1, dtype=torch.int32)
    found = fused().block_sparse_attention(*of[:3], plan, lengths)
    assert relative_error(found.cpu(), attend(inputs(), mask)) <= 1e-5


def test_a_video_of_real_size_has_full_blocks_and_few_pairs() -> None:
    """Of 704x704x129, frames of 44 x 44 places: the share of pairs and what fills blocks costs."""
    grid, tokens = (33, 44, 44), 33 * 44 * 44 + 256
    shares = {}
    for name, mask in (
        ("space", Near(grid, tokens, 1, None)),
        ("time", Near(grid, tokens, None, 4)),
    ):
        plan = of_spans(mask, CPU)
        assert plan.queries.shape[1] == 128
        pairs = int(plan.counts.sum()) * plan.queries.shape[1] * plan.keys.shape[3]
        shares[name] = pairs / tokens**2
    assert shares["space"] == pytest.approx(0.103, abs=0.001)
    assert shares["time"] == pytest.approx(0.089, abs=0.001)


def test_a_table_of_blocks_is_attention_to_them() -> None:
    mask = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] = True
    rows = (
        torch.arange(TOKENS + 1, dtype=torch.int32).where(torch.arange(64) < TOKENS, -1).view(4, 16)
    )
    plan = of_block_mask(mask, rows, rows, torch.tensor([1, 0, 0, 2]))
    keys = mask.repeat_interleave(16, 2).repeat_interleave(16, 3)[..., :TOKENS, :TOKENS]
    assert relative_error(attend_by(plan, inputs()), with_zeros(keys, plan)) <= 1e-6


def with_zeros(keys: Tensor, plan: KeyBlocks) -> Tensor:
    q, k, v, valid, *_ = inputs()
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k).exp() ** (q.shape[-1] ** -0.5)
    weights = scores * keys * valid[:, None, None]
    zeros = plan.zeros.repeat_interleave(16, 2)[..., :TOKENS, None]
    return torch.einsum("bhqk,bkhd->bqhd", weights / (weights.sum(-1, keepdim=True) + zeros), v)


@pytest.mark.parametrize("room", [2, 4, 9])
def test_true_values_are_listed(room: int) -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    for row, found in zip(mask, listed(mask, room).tolist(), strict=True):
        numbers = row.nonzero().flatten().tolist()[:room]
        assert found == numbers + [-1] * (room - len(numbers))
