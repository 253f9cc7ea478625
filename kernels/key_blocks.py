"""The keys that blocks of queries attend to: the plan of a block-sparse attention, as tensors.

Tokens stay where they are: a plan has the numbers of their rows, so that blocks may be tiles of a
video, frames, or the heaviest keys of a group. Knows no kernel and no mask.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor


class Corners(NamedTuple):
    """The box of keys that each query may attend to, of those in its block's blocks; int32.

    Coordinates are packed into one number, with a guard bit above each: `guards` are all of these
    bits. Of a query `[2, G, M]` has its box's lowest place, and the highest with guards; of a key
    `[2, N, K]` has what is taken from a highest place, and, with guards, what a lowest one is taken
    from. Both are the key's place, or zero and the last place for a key of every box. A key is in a
    query's box where both differences have all guards.
    """

    query: Tensor
    key: Tensor
    guards: int

    def inside(self, group: int, blocks: Tensor) -> Tensor:
        """`[M, L·K]`: which keys of `blocks [L]` are in the boxes of the queries of a block."""
        (lowest, highest), (low, high) = self.query[:, group], self.key[:, blocks].flatten(1)
        differences = (highest[:, None] - low) & (high - lowest[:, None])
        return differences & self.guards == self.guards


class Group(NamedTuple):
    """One block of queries: the numbers of their rows, and of all keys' that they attend to.

    `bias [1 or queries, keys]` fp32 is added to the scores; None: zero. `zeros` as in `KeyBlocks`.
    """

    queries: Tensor
    keys: Tensor
    bias: Tensor | None
    zeros: int


class KeyBlocks(NamedTuple):
    """G blocks of M queries, N blocks of K keys, and the key blocks of each query block; int32.

    `queries [G, M]` and `keys [B, H, N, K]` are numbers of rows, -1 where a block has fewer.
    `blocks [B, H, G, L]` are numbers of key blocks, of which the first `counts [B, H, G]` count.
    `zeros [B, H, G]` are keys of nothing but zeros beside those, which add one each to the
    softmax's sum and nothing to its output (None: none). B and H are one where all samples or all
    heads are alike. A query is in one block at most. M and K are multiples of 16; a program of the
    kernel takes an even part of each, at best 128 queries and 64 or 128 keys.
    """

    queries: Tensor
    keys: Tensor
    blocks: Tensor
    counts: Tensor
    zeros: Tensor | None = None
    corners: Corners | None = None

    def alike(
        self, samples: int, heads: int, by_sample: bool, by_head: bool
    ) -> Iterator[tuple[slice, slice]]:
        """Samples and heads that have the same blocks, as many at once as there are.

        `by_sample`: each sample by itself; `by_head`: each head of each sample.
        """
        tables = [self.keys, self.blocks, self.counts]
        by_sample = by_sample or by_head or any(len(each) > 1 for each in tables)
        by_head = by_head or any(each.shape[1] > 1 for each in tables)
        return product(_slices(samples, by_sample), _slices(heads, by_head))

    def group(self, sample: int, head: int, number: int, length: int | None = None) -> Group:
        """One block of queries of a sample and head; keys from row `length` on are padding."""
        blocks = _of(self.blocks, sample, head)[number]
        blocks = blocks[: _of(self.counts, sample, head)[number]]
        keys, queries = _of(self.keys, sample, head)[blocks].flatten(), self.queries[number]
        is_query, is_key, bias = queries >= 0, keys >= 0, None
        if length is not None:
            is_key &= keys < length
        if self.corners is not None:
            inside = self.corners.inside(number, blocks)[is_query][:, is_key]
            bias = torch.zeros(inside.shape).masked_fill(~inside, float("-inf"))
        zeros = 0 if self.zeros is None else int(_of(self.zeros, sample, head)[number])
        return Group(queries[is_query], keys[is_key], bias, zeros)


def _slices(count: int, is_each: bool) -> list[slice]:
    """Each of so many numbers by itself, or all together."""
    return [slice(i, i + 1) for i in range(count)] if is_each else [slice(0, count)]


def _of(table: Tensor, sample: int, head: int) -> Tensor:
    """The part of a sample and a head of a table `[B, H, ...]`, whose B and H may be one."""
    return table[min(sample, table.shape[0] - 1), min(head, table.shape[1] - 1)]
