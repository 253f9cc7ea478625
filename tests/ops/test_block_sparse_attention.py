"""Block-sparse attention against fp64 under its plan; interpreted where there is no GPU."""

import pytest
import torch
from torch import Tensor

from disca_rt.kernels import reference
from disca_rt.kernels.key_blocks import Corners, KeyBlocks
from ops.oracle import block_sparse_attention as exact
from ops.test_fused import DEVICE, DTYPES, assert_as_good_as_reference, fused, results_begin_as_nan

SAMPLES, TOKENS, HEADS = 2, 43, 2
GUARDS = 1 << 15


def tensors(width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k and v as the parts of one tensor are strided."""
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(SAMPLES, TOKENS, 3, HEADS, width, generator=generator)
    return packed.to(DEVICE, dtype).unbind(2)


def plan(
    queries: int, keys: int, by_head: bool = False, zeros: bool = False, boxes: bool = False
) -> KeyBlocks:
    """Rows in an order of their own, blocks with holes, and of each group some blocks or none."""
    generator = torch.Generator().manual_seed(1)
    lead = (SAMPLES, HEADS) if by_head else (1, 1)
    groups, count = -(-TOKENS // queries), -(-TOKENS // keys)
    counts = torch.randint(1, count + 1, (*lead, groups), generator=generator)
    counts[..., -1] = 0
    blocks = torch.rand(*lead, groups, count, generator=generator).argsort(-1)
    places = torch.stack([_rows(keys, generator) for _ in range(lead[0] * lead[1])])
    table = [_rows(queries, generator), places.unflatten(0, lead), blocks, counts]
    if zeros:
        table.append(torch.randint(0, 3, counts.shape, generator=generator) * (counts > 0))
    found = KeyBlocks(*(each.int().to(DEVICE) for each in table))
    return found._replace(corners=_boxes(found)) if boxes else found


def _rows(size: int, generator: torch.Generator) -> Tensor:
    """All rows in blocks of `size`, shuffled with what fills the last block."""
    room = -(-TOKENS // size) * size
    rows = torch.randperm(room, generator=generator)
    return rows.where(rows < TOKENS, -1).unflatten(0, (-1, size))


def _boxes(plan: KeyBlocks, reach: int = 15) -> Corners:
    """The rows within `reach` of a query, in one coordinate; every eighth key is in every box."""
    queries, keys = plan.queries.clamp(min=0), plan.keys[0, 0]
    is_shared = keys % 8 == 0
    low, high = (queries - reach).clamp(min=0), (queries + reach) | GUARDS
    nearest, farthest = keys.where(~is_shared, 0), keys.where(~is_shared, GUARDS - 1) | GUARDS
    return Corners(torch.stack([low, high]), torch.stack([nearest, farthest]), GUARDS)


def check(q: Tensor, k: Tensor, v: Tensor, *more: object) -> Tensor:
    with results_begin_as_nan():
        ours = fused().block_sparse_attention(q, k, v, *more, out=torch.zeros_like(q))
    theirs, wanted = (of(q, k, v, *more) for of in (reference.block_sparse_attention, exact))
    assert_as_good_as_reference(ours, theirs, wanted)
    return ours


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 14, 128])
def test_against_fp64(width: int, dtype: torch.dtype) -> None:
    check(*tensors(width, dtype), plan(48, 32))


@pytest.mark.parametrize("options", [{"by_head": True}, {"zeros": True}, {"boxes": True}])
def test_plans_by_head_with_keys_of_zeros_and_boxes(options: dict[str, bool]) -> None:
    lengths = torch.tensor([TOKENS, TOKENS - 9], device=DEVICE)
    of_plan = plan(16, 32, **options)
    check(*tensors(16, torch.float32), of_plan, lengths)


def test_heads_that_are_not_meant_stay_as_they_are() -> None:
    q, k, v = tensors(16, torch.float32)
    of_plan, heads = plan(32, 16), torch.tensor([[True, False], [False, True]], device=DEVICE)
    before = torch.full_like(q, 7.0)
    whole = fused().block_sparse_attention(q, k, v, of_plan, out=before.clone())
    some = fused().block_sparse_attention(q, k, v, of_plan, None, heads, before.clone())
    of_heads = heads[:, None, :, None].expand_as(q)
    assert torch.equal(some, whole.where(of_heads, before))
    theirs = reference.block_sparse_attention(q, k, v, of_plan, None, heads, before.clone())
    torch.testing.assert_close(theirs, some)


def test_all_blocks_are_full_attention() -> None:
    q, k, v = tensors(16, torch.float32)
    found = plan(32, 16)
    found.counts.fill_(found.blocks.shape[3])
    whole = torch.nn.functional.scaled_dot_product_attention(
        *(each.transpose(1, 2) for each in (q, k, v))
    )
    torch.testing.assert_close(check(q, k, v, found), whole.transpose(1, 2))


def test_blocks_of_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 16 queries and keys, got 24 and 32"):
        fused().block_sparse_attention(*tensors(16, torch.float32), plan(24, 32))
