"""Attention of a batch whose samples have keys of different numbers, without a mask.

A mask over all scores is read for each of them, to leave out less than a hundredth. Where the host
knows the numbers, samples of one number attend at a time, each to its own keys: at the lengths of a
video one sample fills the device. Where only the device does, a backend reads them there.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..tokens import TokenLayout
from .backends import Backend
from .partial import Partial
from .protocol import AttentionInputs


class Padding(NamedTuple):
    """Numbers of valid keys of each sample, its first ones: `lengths [B]` int32 on the device.

    `counts` are the same on the host; None where they are to stay unknown there.
    """

    lengths: Tensor
    counts: tuple[int, ...] | None

    def mask(self, keys: int) -> Tensor:
        """`[B, S]`, true for the valid ones of `keys`."""
        return torch.arange(keys, device=self.lengths.device) < self.lengths[:, None]


def padding_of(layout: TokenLayout, start: int = 0, stop: int | None = None) -> Padding:
    """The padding among tokens number `start` to `stop` (None: the last) of those with lengths."""
    if start == 0 and stop is None:
        return Padding(layout.lengths, layout.counts)
    counts = layout.counts and tuple(min(max(n, start), stop) - start for n in layout.counts)
    return Padding(layout.lengths.clamp(start, stop) - start, counts)


def attend(
    backend: Backend | Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, at: Padding | None
) -> Tensor:
    """Attention `[B, Sq, H, D]` of all queries to valid keys, by `backend`."""
    if at is None:
        return backend(q, k, v, None)
    if at.counts is not None:
        return _of_each(q, k, v, at.counts, lambda *each: backend(*each, None))
    if isinstance(backend, Backend) and backend.takes_lengths(q.shape[-1], q.dtype, q.device):
        return backend.with_lengths(q, k, v, at.lengths)
    return backend(q, k, v, at.mask(k.shape[1]))


def inputs_of(
    backend: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Padding | None,
    layout: TokenLayout,
) -> AttentionInputs:
    """The arguments of an attention for what is called in place of `backend`."""
    if at is None:
        return AttentionInputs(q, k, v, None, layout, backend)
    attend_as = partial(_to_valid, backend, at)
    return AttentionInputs(q, k, v, at.mask(k.shape[1]), layout, attend_as)


def _to_valid(
    backend: Callable[..., Tensor], at: Padding, q: Tensor, k: Tensor, v: Tensor, valid: Tensor
) -> Tensor:
    """Attention to valid keys, which `valid` repeats for those that make masks of it."""
    return attend(backend, q, k, v, at)


def attend_with_lse(
    backend: Backend, q: Tensor, k: Tensor, v: Tensor, at: Padding | None
) -> Partial:
    """Attention to valid keys, and what it takes to merge it with that to others."""
    if at is None or at.counts is None:
        return backend.with_lse(q, k, v, None if at is None else at.mask(k.shape[1]))
    out, lse = torch.zeros_like(q), q.new_full(q.shape[:-1], float("-inf"), dtype=torch.float32)
    for rows, *each in _groups(q, k, v, at.counts):
        if each[1].shape[1]:  # a part of the keys may be nothing but padding
            out[rows], lse[rows] = backend.with_lse(*each, None)
    return Partial(out, lse)


def _of_each(
    q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, ...], attend: Callable[..., Tensor]
) -> Tensor:
    if len(set(counts)) == 1:
        return attend(q, k[:, : counts[0]], v[:, : counts[0]])
    out = torch.empty_like(q)
    for rows, *each in _groups(q, k, v, counts):
        out[rows] = attend(*each)
    return out


Group = tuple[slice, Tensor, Tensor, Tensor]
"""Some samples: which ones, and their queries, keys and values."""


def _groups(q: Tensor, k: Tensor, v: Tensor, counts: tuple[int, ...]) -> Iterator[Group]:
    """Views of the samples of each number of keys, without the padding."""
    for count in dict.fromkeys(counts):
        for rows in _evenly_spaced([i for i, n in enumerate(counts) if n == count]):
            first = rows.start
            if rows.stop - first == 1:  # one sample, of the strides of one without padding
                yield rows, q[first][None], k[first, :count][None], v[first, :count][None]
            else:
                yield rows, q[rows], k[rows, :count], v[rows, :count]


def _evenly_spaced(numbers: list[int]) -> list[slice]:
    """`numbers` as one slice, which steps of a sample in turn are; else each by itself."""
    steps = {b - a for a, b in pairwise(numbers)}
    if len(steps) > 1:
        return [slice(n, n + 1) for n in numbers]
    return [slice(numbers[0], numbers[-1] + 1, *steps or (1,))]
