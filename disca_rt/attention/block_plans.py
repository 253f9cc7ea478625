"""Plans of block-sparse attention (`kernels/key_blocks.py`) from masks, and who computes by them.

A plan of a mask that is the same in every step is made once for a device and kept for good, since
captured steps read it. Knows masks and tokens, no caches and no ranks.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import reference
from ..kernels.key_blocks import Corners, KeyBlocks
from .masks import Boxes, SpanMask, numbers, spans_of
from .protocol import AttentionInputs

QUERIES = 128, 64, 32, 16  # of a block: the first that is FILLED
FILLED = 0.8
KEYS = 128, 64  # of a block: the first of which a query has MANY
MANY = 16
LISTED = 2**24  # keys that are looked through at once: 0.3 GB with their places


def attend_by(
    plan: KeyBlocks, inputs: AttentionInputs, heads: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """The output `[B, S, H, D]` of attention by `plan`, of `heads [B, H]` where given.

    By the kernel on a GPU, elsewhere by the reference, which gathers one block after the other.
    """
    lengths = None if inputs.valid is None else inputs.valid.sum(1, dtype=torch.int32)
    return _op(inputs.q.device)(*inputs[:3], plan, lengths, heads, out)


def _op(device: torch.device) -> Callable[..., Tensor]:
    if device.type != "cuda":
        return reference.block_sparse_attention
    from ..kernels.block_sparse_attention import block_sparse_attention

    return block_sparse_attention


@cache
def of_spans(mask: SpanMask, device: torch.device) -> KeyBlocks:
    """Blocks of the queries of each span of a mask, and of its keys."""
    spans = spans_of(mask, device)
    size = _block_size([len(each.queries) for each in spans])
    of_keys = [len(each.places) for each in spans]
    room = next((n for n in KEYS if sum(of_keys) >= MANY * n * len(spans)), KEYS[-1])
    queries = [in_blocks(each.queries, size) for each in spans]
    keys = [in_blocks(each.places, room) for each in spans]
    counts = [len(k) for q, k in zip(queries, keys, strict=True) for _ in q]
    firsts = [sum(map(len, keys[:i])) for i, q in enumerate(queries) for _ in q]
    places = numbers(range(max(counts)), device)
    firsts, counts = (torch.tensor(each, device=device) for each in (firsts, counts))
    blocks = (firsts[:, None] + places.minimum(counts[:, None] - 1)).int()
    of_queries, of_keys = torch.cat(queries), torch.cat(keys)
    corners = _corners(mask.boxes(device), of_queries, of_keys)
    tables = of_keys[None, None], blocks[None, None], counts.int()[None, None]
    return KeyBlocks(of_queries, *tables, corners=corners)


def of_block_mask(
    mask: Tensor, queries: Tensor, keys: Tensor, empty: Tensor | None = None
) -> KeyBlocks:
    """Blocks `queries [G, M]` and `keys [N, K]` of which `mask [B, H, G, N]` says who attends.

    Where `empty [N]` is given, so many keys of zeros are in each block of keys.
    """
    blocks = mask.byte().argsort(dim=-1, descending=True, stable=True).int()
    zeros = None if empty is None else (mask * empty).sum(-1, dtype=torch.int32)
    return KeyBlocks(queries, keys[None, None], blocks, mask.sum(-1, dtype=torch.int32), zeros)


def of_own_keys(rows: Tensor, queries: Tensor) -> KeyBlocks:
    """Blocks `queries [G, M]`, each with keys `rows [B, H, G, R]` of its own, first those >= 0."""
    groups, size = rows.shape[2], KEYS[-1]
    queries = F.pad(queries.int(), (0, -queries.shape[1] % QUERIES[-1]), value=-1)
    keys = F.pad(rows, (0, -rows.shape[3] % size), value=-1).unflatten(3, (-1, size))
    blocks = numbers(range(keys.shape[2] * keys.shape[3]), rows.device).int()
    counts = (keys[..., 0] >= 0).sum(-1, dtype=torch.int32)
    return KeyBlocks(queries, keys.flatten(2, 3), blocks.view(1, 1, groups, -1), counts)


def listed(mask: Tensor, room: int) -> Tensor:
    """Numbers int32 `[..., room]` of the true values of `mask [..., S]`, -1 behind the last.

    Nothing waits for the device; of more than `room` the last ones are left out.
    """
    places = (
        mask.cumsum(-1).where(mask, 0).clamp(max=room + 1)
    )  # where none is goes before the first
    found = mask.new_full((*mask.shape[:-1], room + 2), -1, dtype=torch.int32)
    of_all = numbers(range(mask.shape[-1]), mask.device).int()
    return found.scatter_(-1, places, of_all.expand(mask.shape))[..., 1:-1]


def in_blocks(rows: Tensor, size: int) -> Tensor:
    """`rows [R]` as int32 `[⌈R/size⌉, size]`, -1 behind the last."""
    return F.pad(rows.int(), (0, -len(rows) % size), value=-1).view(-1, size)


def _block_size(counts: Sequence[int]) -> int:
    """Queries of a block for spans of `counts` queries."""
    filled = ((size, sum(counts) / sum(-(-n // size) * size for n in counts)) for size in QUERIES)
    return next((size for size, share in filled if share >= FILLED), QUERIES[-1])


def _corners(boxes: Boxes | None, queries: Tensor, keys: Tensor) -> Corners | None:
    if boxes is None:
        return None
    low, high = (each[queries.clamp(min=0).long()] for each in boxes[:2])
    first, last = (each[keys.clamp(min=0).long()] for each in boxes[2:4])
    of_queries = torch.stack([low, high | boxes.guards])
    return Corners(of_queries, torch.stack([first, last | boxes.guards]), boxes.guards)
