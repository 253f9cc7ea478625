"""Attention to some of the keys of each query, as masks say: the reference, right and slow.

A mask is a value: which keys the queries of a group attend to, or how far a window reaches. A
kernel that leaves out blocks of keys can take the same value. Knows no models and no ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .protocol import AttentionInputs

SCORES = 2**26  # scores that are in memory at once: 256 MB in fp32
PIECE = 64  # queries of a window that attend at once, to the keys that any of them does


class Mask(Protocol):
    """Which keys each query attends to; padding is left out in any case."""

    def keys(self, queries: Tensor) -> Tensor:
        """`[B or 1, H or 1, Q, S]`, true for the keys of the queries numbered `queries [Q]`."""


@dataclass(frozen=True)
class GroupMask:
    """The keys of groups of queries: `by_group [B or 1, H or 1, G, S]`; `group_of [S]`."""

    by_group: Tensor
    group_of: Tensor

    def keys(self, queries: Tensor) -> Tensor:
        return self.by_group[:, :, self.group_of[queries]]


@dataclass(frozen=True)
class Window:
    """The `reach` image keys before and after each image query, and all text.

    Of `tokens` the first `img` are image; text attends to everything.
    """

    reach: int
    img: int
    tokens: int

    def keys(self, queries: Tensor, places: Tensor | None = None) -> Tensor:
        """As in `Mask`; of the keys numbered `places` alone where these are given."""
        if places is None:
            places = torch.arange(self.tokens, device=queries.device)
        distance = (queries[:, None] - places).abs()
        is_text = (queries[:, None] >= self.img) | (places >= self.img)
        return ((distance <= self.reach) | is_text)[None, None]

    @property
    def share(self) -> float:
        """The pairs that `attend_within` computes, over all."""
        pairs = sum(len(queries) * sum(map(len, keys)) for queries, keys in self.spans())
        return pairs / self.tokens**2

    def spans(self) -> Iterator[tuple[range, tuple[range, ...]]]:
        """Queries, `PIECE` or all of the text's, with the keys that any of them attends to."""
        text = range(self.img, self.tokens)
        for first in range(0, self.img, PIECE):
            stop = min(first + PIECE, self.img)
            near = range(max(0, first - self.reach), min(self.img, stop + self.reach))
            yield range(first, stop), (near, text)
        if text:
            yield text, (range(self.tokens),)


def attend(inputs: AttentionInputs, mask: Mask) -> Tensor:
    """The output `[B, S, H, D]` of attention to the keys of `mask`."""
    q, k, v = (each.transpose(1, 2) for each in inputs[:3])
    parts = []
    for queries in pieces(inputs):
        keys = mask.keys(queries)
        if inputs.valid is not None:
            keys = keys & inputs.valid[:, None, None]
        keys = keys.expand(-1, q.shape[1], -1, -1)
        part = F.scaled_dot_product_attention(q[:, :, queries], k, v, attn_mask=keys)
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1)


def attend_within(inputs: AttentionInputs, window: Window) -> Tensor:
    """As `attend`, without the keys that are in no query's window: work falls with the reach."""
    q, k, v = (each.transpose(1, 2) for each in inputs[:3])
    device, parts = q.device, []
    for queries, ranges in window.spans():
        places = torch.cat([torch.arange(r.start, r.stop, device=device) for r in ranges])
        numbers = torch.arange(queries.start, queries.stop, device=device)
        keys = window.keys(numbers, places)
        if inputs.valid is not None:
            keys = keys & inputs.valid[:, None, None, places]
        near = (each[:, :, places] for each in (k, v))
        mine = q[:, :, queries.start : queries.stop]
        part = F.scaled_dot_product_attention(mine, *near, attn_mask=keys)
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1)


def pieces(inputs: AttentionInputs, group: int = 1) -> Iterator[Tensor]:
    """Numbers of all queries, in order: as many at once as `SCORES` allows, in whole groups."""
    batch, tokens, heads, _ = inputs.q.shape
    count = max(1, SCORES // (batch * heads * tokens * group)) * group
    yield from torch.arange(tokens, device=inputs.q.device).split(count)


def scores(inputs: AttentionInputs, queries: Tensor) -> Tensor:
    """`[B, H, Q, S]` fp32: what the softmax of `queries [Q]` is taken of, -inf at padding."""
    q, k = (each.transpose(1, 2).float() for each in (inputs.q[:, queries], inputs.k))
    products = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    if inputs.valid is None:
        return products
    return products.masked_fill(~inputs.valid[:, None, None], float("-inf"))


def pack(mask: Tensor) -> Tensor:
    """Booleans `[..., S]` as bits, uint8 `[..., ⌈S/8⌉]`."""
    eights = F.pad(mask, (0, -mask.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (eights * _bits(mask)).sum(-1, dtype=torch.uint8)


def unpack(bits: Tensor, size: int) -> Tensor:
    """Booleans `[..., size]` from their bits."""
    return ((bits[..., None] & _bits(bits)) > 0).flatten(-2)[..., :size]


def _bits(like: Tensor) -> Tensor:
    return 2 ** torch.arange(8, device=like.device, dtype=torch.uint8)
