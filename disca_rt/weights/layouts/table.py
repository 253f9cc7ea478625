"""The engine of the key maps: a table says which modules of a file fill each module of ours.

Names in a table are modules without their `.weight` or `.bias`; `{i}` is the number of a block.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from ...config import Family

Kind = Literal["dit", "predictor"]


class Span(NamedTuple):
    """`count` rows from row `source` of the file's tensor go to row `target`; unit: hidden rows."""

    source: int
    target: int
    count: int


class Piece(NamedTuple):
    """A module of the file and the rows of ours that it fills; no spans: all of them, in order."""

    source: str
    spans: tuple[Span, ...] = ()


Way = tuple[Piece, ...]
"""Pieces that together fill one module of ours."""


def whole(source: str) -> tuple[Way, ...]:
    """One module of the file is one of ours."""
    return ((Piece(source),),)


def qkv_rows(q: str, k: str, v: str, mlp: str | None = None) -> tuple[Way, ...]:
    """Separate projections that we keep merged: rows q, k, v[, mlp]."""
    pieces = [Piece(name, (Span(0, row, 1),)) for row, name in enumerate((q, k, v))]
    if mlp is not None:
        pieces.append(Piece(mlp, (Span(0, 3, 4),)))  # MLP ratio 4
    return (tuple(pieces),)


def swapped_halves(source: str) -> tuple[Way, ...]:
    """[scale, shift] in the file, [shift, scale] in ours."""
    return ((Piece(source, (Span(0, 1, 1), Span(1, 0, 1))),),)


@dataclass(frozen=True)
class Layout:
    """`table` maps a module of ours to the ways of filling it.

    With `own_names` a module is first of all filled by the module of the same name. `double` and
    `single` are the block lists in the file.
    """

    name: str
    kind: Kind
    family: Family
    table: Mapping[str, tuple[Way, ...]] = field(default_factory=dict)
    own_names: bool = True
    double: str | None = None
    single: str | None = None

    def pieces(self, target: str, present: Collection[str]) -> Way:
        """The pieces of parameter `target`, by their names in the file.

        Of several ways, the first with any piece in `present`; without one, the first.
        """
        ways = self._ways(target)
        there = (way for way in ways if any(piece.source in present for piece in way))
        return next(there, ways[0] if ways else (Piece(target),))

    def _ways(self, target: str) -> list[Way]:
        module, _, leaf = target.rpartition(".")
        ways: list[Way] = [(Piece(target),)] if self.own_names else []
        for pattern, table_ways in self._patterns:
            if match := pattern.fullmatch(module):
                index = match.groupdict().get("i", "")
                ways += [_concrete(way, index, leaf) for way in table_ways]
        return ways

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], tuple[Way, ...]]]:
        return [
            (re.compile(re.escape(target).replace(r"\{i\}", r"(?P<i>\d+)")), ways)
            for target, ways in self.table.items()
        ]


def _concrete(way: Way, index: str, leaf: str) -> Way:
    return tuple(Piece(f"{p.source.replace('{i}', index)}.{leaf}", p.spans) for p in way)
