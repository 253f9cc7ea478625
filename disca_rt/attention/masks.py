"""Masks: which keys each query attends to, as values. What computes by them is `some_keys.py`.

A mask says which keys the queries of a group attend to, or how far a window reaches. Knows no
models and no ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 64  # queries of a window that attend at once, to the keys that any of them does
GUARDED = 1 << 30  # places, with all their guard bits, are below
WHOLE_BOX = 1 << 29  # the guard bit of a place that is one number


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


class Boxes(NamedTuple):
    """The box of places within which each query's keys are, `[S]` int32 each, and its guard bits.

    Places are coordinates packed as in `kernels.key_blocks.Corners`. `low` and `high` are corners
    of the query's box; a key is in it from its `first` to its `last` place, which are the same,
    or the ends of all places for a key that every query attends to.
    """

    low: Tensor
    high: Tensor
    first: Tensor
    last: Tensor
    guards: int


class SpanMask(Protocol):
    """A mask of which much is empty in whole blocks, the same for all samples and heads.

    Of `tokens` the first `img` are image; text attends, and is attended to, in any case. Hashable.
    """

    img: int
    tokens: int

    def keys(self, queries: Tensor, places: Tensor) -> Tensor:
        """Table of the keys that queries attend to, as `Mask.keys`, of those numbered `places`."""

    def spans(self, device: torch.device) -> Iterator[Span]:
        """Each image query once, with its keys."""

    def boxes(self, device: torch.device) -> Boxes | None:
        """Mask of the keys of its span that each query attends to; None where it is all of them."""


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
        """Table of the keys that queries attend to, as `Mask.keys`, of `places` where given."""
        if places is None:
            places = torch.arange(self.tokens, device=queries.device)
        distance = (queries[:, None] - places).abs()
        is_text = (queries[:, None] >= self.img) | (places >= self.img)
        return ((distance <= self.reach) | is_text)[None, None]

    @property
    def share(self) -> float:
        """The pairs that `attend_within` computes, over all."""
        return share_of(self)

    def boxes(self, device: torch.device) -> Boxes:
        at = numbers(range(self.tokens), device).int()
        ends = (at - self.reach).clamp(min=0), (at + self.reach).clamp(max=WHOLE_BOX - 1)
        return boxes_of(*ends, at, self.img, WHOLE_BOX)

    def spans(self, device: torch.device) -> Iterator[Span]:
        """`PIECE` image queries after the other."""
        for first in range(0, self.img, PIECE):
            stop = min(first + PIECE, self.img)
            near = range(max(0, first - self.reach), min(self.img, stop + self.reach))
            places = (numbers(each, device) for each in (near, range(self.img, self.tokens)))
            yield Span(numbers(range(first, stop), device), torch.cat([*places]))


def boxes_of(low: Tensor, high: Tensor, at: Tensor, img: int, guards: int) -> Boxes:
    """Boxes of queries at places `at [S]`; text, behind `img` rows, goes with everything."""
    is_text, last = numbers(range(len(at)), at.device) >= img, GUARDED - 1 & ~guards
    low, first = (each.masked_fill(is_text, 0) for each in (low, at))
    high, last = (each.masked_fill(is_text, last) for each in (high, at))
    return Boxes(low, high, first, last, guards)


def all_spans(mask: SpanMask, device: torch.device) -> Iterator[Span]:
    """Those of a mask, and that of the text, which attends to everything."""
    yield from mask.spans(device)
    if mask.img < mask.tokens:
        text, everything = range(mask.img, mask.tokens), range(mask.tokens)
        yield Span(numbers(text, device), numbers(everything, device), True)


@lru_cache(maxsize=64)
def spans_of(mask: SpanMask, device: torch.device) -> tuple[Span, ...]:
    """All spans of a mask, kept: making their numbers takes a tenth of attention to 254 tokens."""
    return tuple(all_spans(mask, device))


@lru_cache(maxsize=64)
def share_of(mask: SpanMask) -> float:
    """The pairs that `attend_within` computes, over all."""
    spans = all_spans(mask, torch.device("cpu"))
    return sum(len(each.queries) * len(each.places) for each in spans) / mask.tokens**2


def numbers(of: range, device: torch.device) -> Tensor:
    """The numbers of a range, `[N]` int64."""
    return torch.arange(of.start, of.stop, device=device)


def pack(mask: Tensor) -> Tensor:
    """Booleans `[..., S]` as bits, uint8 `[..., ⌈S/8⌉]`."""
    eights = F.pad(mask, (0, -mask.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (eights * _bits(mask)).sum(-1, dtype=torch.uint8)


def unpack(bits: Tensor, size: int) -> Tensor:
    """Booleans `[..., size]` from their bits."""
    return ((bits[..., None] & _bits(bits)) > 0).flatten(-2)[..., :size]


def _bits(like: Tensor) -> Tensor:
    return 2 ** torch.arange(8, device=like.device, dtype=torch.uint8)
