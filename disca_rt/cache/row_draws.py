"""Rows drawn at random: by a hash of seed, step, place and row, or as a file gives them.

A hash needs no state, so that a captured step draws anew at each replay, and ranks and batches
agree on every row's score. Knows no models and no caches.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .options import check_int
from .stand_in import Moment, Place

_MASK = 0xFFFFFFFF
_FACTORS = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F  # odd, of xxHash32


def scores(seed: int, step: Tensor, place: Place, first: int, count: int) -> Tensor:
    """A score `[count]` int64 below 2³² of each row from number `first` on, at a place of a step.

    `step []` is its index. The four numbers are multiplied by odd constants, added up, and mixed by
    lowbias32: x ^= x>>16, x *= 0x7feb352d, x ^= x>>15, x *= 0x846ca68b, x ^= x>>16, all mod 2³².
    A place counts as 1000·block + the sum of its name's bytes.
    """
    block, name = place
    rows = torch.arange(first, first + count, device=step.device)
    number = 1000 * block + sum(name.encode())
    parts = seed, step.long(), number, rows
    x = sum(part * factor for part, factor in zip(parts, _FACTORS, strict=True)) & _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def drawn(seed: int, step: Tensor, place: Place, first: int, total: int, count: int) -> Tensor:
    """A mask `[total]`, 1 at the `count` rows that have the highest scores, 0 elsewhere."""
    best = scores(seed, step, place, first, total).topk(count).indices
    mask = torch.zeros(total, dtype=torch.uint8, device=best.device)
    return mask.index_fill_(0, best, 1)


class Chosen(NamedTuple):
    """Numbers `rows [R]` of rows; those where `is_meant [R]` is 0 are to be left alone."""

    rows: Tensor
    is_meant: Tensor


def own(mask: Tensor, first: int, count: int, capacity: int) -> Chosen:
    """The rows of a mask that are among the `count` from number `first` on, numbered from there.

    `capacity` of them, which is to be no fewer than the mask has there: what a graph holds is of
    one shape.
    """
    is_meant, rows = mask[first : first + count].topk(capacity)
    return Chosen(rows, is_meant)


class Share(NamedTuple):
    """A rank's rows of a branch: `count` from number `first` on, of `total`.

    `offset` is the number of the branch's first row among the joint ones.
    """

    first: int
    count: int
    total: int
    offset: int

    def most(self, chosen: int) -> int:
        """Room for those of `chosen` rows, drawn evenly from all, that the rank has.

        Six standard deviations above the mean: one sample in 10⁹ has rows that are left alone.
        """
        mean = chosen * self.count / max(1, self.total)
        return chosen if self.count == self.total else math.ceil(mean + 6 * math.sqrt(mean))


def share_of(at: Moment, count: int) -> Share:
    """The share of the rows at a branch, of which this rank has `count`."""
    layout, kind = at.context.layout, at.place[1][:3]
    first = layout.start + layout.img_len * (kind == "txt")
    img, txt = layout.whole or (layout.img_len, count)
    total = {"img": img, "txt": txt}.get(kind, count if layout.whole is None else img + txt)
    offset = img if kind == "txt" else 0
    return Share(first - offset, count, total, offset)


class GivenRows:
    """Rows from a safetensors file: tensors `[R]` of row numbers, called "step.block.branch".

    Rows are those of the branch: of image, of text, or joint. Padding rows of text, which exist in
    the authors' models but not here, may be among them; a place without a tensor has none. Numbers
    for a step are those of all its places in the order of `places`, each filled up by -1 to the
    most that any step has.
    """

    def __init__(self, path: str) -> None:
        self._rows = _read(path)
        places = sorted({place for _, place in self._rows})
        most = {place: self._most(place) for place in places}
        starts = [sum(list(most.values())[:i]) for i in range(len(places))]
        self._spans = {p: (start, most[p]) for p, start in zip(places, starts, strict=True)}

    def numbers(self, step: int) -> tuple[float, ...]:
        """The rows of a step at all places; always as many numbers."""
        numbers: list[float] = []
        for place, (_, most) in self._spans.items():
            rows = self._rows.get((step, place), ())
            numbers += [*rows, *(-1,) * (most - len(rows))]
        return tuple(map(float, numbers))

    def count(self, place: Place) -> int:
        """The most rows of a place that any step has."""
        return self._spans.get(place, (0, 0))[1]

    def rows(self, place: Place, numbers: Tensor) -> Tensor:
        """The rows `[R]` of a place, from the numbers of a step on the device."""
        start, most = self._spans.get(place, (0, 0))
        return numbers[start : start + most].long()

    def mask(self, place: Place, numbers: Tensor, total: int) -> Tensor:
        """A mask `[total]` as of `drawn`, from the numbers of a step on the device."""
        rows = self.rows(place, numbers)
        mask = torch.zeros(total + 1, dtype=torch.uint8, device=numbers.device)  # the last: no row
        return mask.index_fill_(0, rows.where((rows >= 0) & (rows < total), total), 1)[:total]

    def _most(self, place: Place) -> int:
        return max(len(rows) for (_, where), rows in self._rows.items() if where == place)


given_rows = lru_cache(maxsize=8)(GivenRows)


def _read(path: str) -> Mapping[tuple[int, Place], tuple[int, ...]]:
    """Row numbers by step and place."""
    from safetensors import SafetensorError  # a package that a bench does without
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise ValueError(f"fresh_rows must be a safetensors file of row numbers, got {path!r}")
    try:
        tensors = load_file(path)
        return {_key(key): tuple(rows.flatten().tolist()) for key, rows in tensors.items()}
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f'fresh_rows must hold tensors called "step.block.branch", got {path!r}: {error}'
        ) from error


def _key(text: str) -> tuple[int, Place]:
    step, block, name = text.split(".")
    for what, value in (("step", step), ("block", block)):
        check_int(what, int(value), 0)
    return int(step), (int(block), name)
