"""The engine of the key maps: a table says which modules of a file fill each module of ours.

Names in a table are modules without their `.weight` or `.bias`; `{i}` is the number of a block.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from ...family import Family

Kind = Literal["dit", "predictor"]


class Span(NamedTuple):
    """`count` rows from row `source` of the file's tensor go to row `target`; unit: hidden rows."""

    source: int
    target: int
    count: int


class Piece(NamedTuple):
    """A module of the file and the rows of ours that it fills; no spans: all of them, in order.

    Of a module that fills several of ours, `parts` is how many hidden rows it has.
    """

    source: str
    spans: tuple[Span, ...] = ()
    parts: int | None = None

    @property
    def hidden_rows(self) -> int:
        """The rows of the file's module, in hidden rows; 0 where it has as many as ours."""
        return self.parts or sum(span.count for span in self.spans)


Pieces = tuple[Piece, ...]
"""The pieces that together fill one module of ours."""


def whole(source: str) -> Pieces:
    """One module of the file is one of ours."""
    return (Piece(source),)


def qkv_rows(q: str, k: str, v: str, mlp: str | None = None) -> Pieces:
    """Separate projections that we keep merged: rows q, k, v[, mlp]."""
    pieces = [Piece(name, (Span(0, row, 1),)) for row, name in enumerate((q, k, v))]
    if mlp is not None:
        pieces.append(Piece(mlp, (Span(0, 3, 4),)))  # MLP ratio 4
    return tuple(pieces)


def packed_rows(source: str, part: int, parts: int = 3) -> Pieces:
    """One of several projections that the file keeps merged, by its place there."""
    return (Piece(source, (Span(part, 0, 1),), parts),)


def swapped_halves(source: str) -> Pieces:
    """[scale, shift] in the file, [shift, scale] in ours."""
    return (Piece(source, (Span(0, 1, 1), Span(1, 0, 1))),)


@dataclass(frozen=True)
class Layout:
    """`table` maps a module of ours to what fills it.

    With `own_names` a module is first of all filled by the module of the same name. `double` and
    `single` are the block lists in the file.
    """

    name: str
    kind: Kind
    family: Family
    table: Mapping[str, Pieces] = field(default_factory=dict)
    own_names: bool = True
    double: str | None = None
    single: str | None = None

    def pieces(self, target: str, present: Collection[str]) -> Pieces:
        """The pieces that fill the parameter `target`, by their names in the file.

        With `own_names` that is the parameter of the same name, unless only pieces of the table's
        row for it are in `present`.
        """
        row = self._row(target)
        if not row or (
            self.own_names
            and (target in present or not any(piece.source in present for piece in row))
        ):
            return (Piece(target),)
        return row

    def _row(self, target: str) -> Pieces:
        module, _, leaf = target.rpartition(".")
        for pattern, pieces in self._patterns:
            if match := pattern.fullmatch(module):
                index = match.groupdict().get("i", "")
                return tuple(
                    piece._replace(source=f"{piece.source.replace('{i}', index)}.{leaf}")
                    for piece in pieces
                )
        return ()

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Pieces]]:
        return [
            (re.compile(re.escape(target).replace(r"\{i\}", r"(?P<i>\d+)")), pieces)
            for target, pieces in self.table.items()
        ]
