"""Attention to some of the keys of each query, as masks say: the reference, right and slow.

A mask is a value: which keys the queries of a group attend to, or how far a window reaches. A
kernel that leaves out blocks of keys can take the same value. Knows no models and no ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

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


class Span(NamedTuple):
    """Numbers of image queries, and of the keys outside which none of them attends to anything.

    `is_whole`: they attend to all of these.
    """

    queries: Tensor
    places: Tensor
    is_whole: bool = False


class SpanMask(Protocol):
    """A mask of which much is empty in whole blocks, the same for all samples and heads.

    Of `tokens` the first `img` are image; text attends, and is attended to, in any case. Hashable.
    """

    img: int
    tokens: int

    def keys(self, queries: Tensor, places: Tensor) -> Tensor:
        """As in `Mask`, of the keys numbered `places`."""

    def spans(self, device: torch.device) -> Iterator[Span]:
        """Each image query once, with its keys."""


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
        return share_of(self)

    def spans(self, device: torch.device) -> Iterator[Span]:
        """`PIECE` image queries after the other."""
        for first in range(0, self.img, PIECE):
            stop = min(first + PIECE, self.img)
            near = range(max(0, first - self.reach), min(self.img, stop + self.reach))
            places = (numbers(each, device) for each in (near, range(self.img, self.tokens)))
            yield Span(numbers(range(first, stop), device), torch.cat([*places]))


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


def attend_within(inputs: AttentionInputs, mask: SpanMask) -> Tensor:
    """As `attend`, without the keys that no query of a span attends to."""
    q, k, v = (each.transpose(1, 2) for each in inputs[:3])
    out = torch.empty_like(inputs.q)
    for queries, places, is_whole in all_spans(mask, q.device):
        keys = None if is_whole else mask.keys(queries, places)
        if inputs.valid is not None:
            valid = inputs.valid[:, None, None, places]
            keys = valid if keys is None else keys & valid
        mine, *near = q[:, :, queries], k[:, :, places], v[:, :, places]
        part = F.scaled_dot_product_attention(mine, *near, attn_mask=keys)
        out[:, queries] = part.transpose(1, 2)
    return out


def all_spans(mask: SpanMask, device: torch.device) -> Iterator[Span]:
    """Those of a mask, and that of the text, which attends to everything."""
    yield from mask.spans(device)
    if mask.img < mask.tokens:
        text, everything = range(mask.img, mask.tokens), range(mask.tokens)
        yield Span(numbers(text, device), numbers(everything, device), True)


@lru_cache(maxsize=64)
def share_of(mask: SpanMask) -> float:
    """The pairs that `attend_within` computes, over all."""
    spans = all_spans(mask, torch.device("cpu"))
    return sum(len(each.queries) * len(each.places) for each in spans) / mask.tokens**2


def numbers(of: range, device: torch.device) -> Tensor:
    """The numbers of a range, `[N]` int64."""
    return torch.arange(of.start, of.stop, device=device)


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
