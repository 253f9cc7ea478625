"""Attention of some rows to all: keys and values of the others are those kept from before.

Knows tokens and heads, no models, no caches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.packing import Packing
from ..tokens import TokenLayout
from .protocol import Attention, AttentionHandle, Overlap


class Rows(NamedTuple):
    """Numbers `index [R]` of a rank's joint rows, and `is_meant [R]`: false where not to be kept.

    The rows that are not meant fill up a fixed number.
    """

    index: Tensor
    is_meant: Tensor


class KeptKeys:
    """`attention`, with keys and values `[B, S, H·D]` of all rows written into `k` and `v`.

    `rows` are those that blocks are given, None for all of `layout`.
    """

    def __init__(
        self, attention: Attention, k: Tensor, v: Tensor, layout: TokenLayout, rows: Rows | None
    ) -> None:
        self.attention, self.k, self.v, self.layout, self.rows = attention, k, v, layout, rows

    def begin(self, layout: TokenLayout) -> "KeptKeysHandle":
        return KeptKeysHandle(self)


class KeptKeysHandle:
    """One attention of the rows at hand to all."""

    packing = q_scale = k_scale = None

    def __init__(self, kept: KeptKeys) -> None:
        self._kept = kept
        self._inner: AttentionHandle = kept.attention.begin(kept.layout)

    def put_v(self, v: Tensor) -> None:
        self._inner.put_v(self._write(self._kept.v, v))

    def put_k(self, k: Tensor) -> None:
        self._inner.put_k(_packed(self._write(self._kept.k, k), self._inner.packing))

    def put_q(self, q: Tensor) -> None:
        rows = self._kept.rows
        if rows is not None and self._is_shared:  # exchanges are of as many queries as keys
            all_rows = q.new_zeros(len(q), self._kept.k.shape[1], *q.shape[2:])
            q = all_rows.index_copy_(1, rows.index, q)
        self._inner.put_q(_packed(q, self._inner.packing))

    def result(self, overlap: Overlap) -> Tensor:
        out = self._inner.result(overlap)
        rows = self._kept.rows
        return out if rows is None or not self._is_shared else out[:, rows.index]

    @property
    def _is_shared(self) -> bool:
        return self._kept.attention.sharding.size > 1

    def _write(self, buffer: Tensor, tokens: Tensor) -> Tensor:
        """The tokens of all rows, after those at hand have been written into `buffer`."""
        all_rows, rows = buffer.unflatten(-1, tokens.shape[2:]), self._kept.rows
        if rows is None:
            return all_rows.copy_(tokens)
        meant = tokens.where(rows.is_meant[:, None, None], all_rows[:, rows.index])
        return all_rows.index_copy_(1, rows.index, meant)


def _packed(x: Tensor, packing: Packing | None) -> Tensor:
    """Heads `[B, S, H, D]` in the layout that an exchange wants, as `rms_norm_rope_send` does."""
    if packing is None:
        return x
    return torch.cat([part.flatten(1, 2) for part in x.split(packing.counts, dim=2)], dim=1)
