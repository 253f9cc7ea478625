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
    """`count` rows from row `source` of the file's tensor go to row `target`; unit: hidden rows.

    A `count` of None is all rows of ours from `target` on.
    """

    source: int
    target: int
    count: int | None


class Source(NamedTuple):
    """A module of the file and the rows of ours that it fills; no spans: all of them, in order.

    Of a module that fills several of ours, `parts` is how many hidden rows it has.
    """

    name: str
    spans: tuple[Span, ...] = ()
    parts: int | None = None

    def filling(self, rows: int) -> "Source":
        """The source with all counts known, of a parameter of `rows` hidden rows."""
        spans = (s if s.count else s._replace(count=rows - s.target) for s in self.spans)
        return self._replace(spans=tuple(spans))

    @property
    def hidden_rows(self) -> int:
        """The rows of the file's module, in hidden rows; 0 where it has as many as ours."""
        return self.parts or sum(span.count for span in self.spans)


Sources = tuple[Source, ...]
"""The sources that together fill one module of ours."""


def whole(source: str) -> Sources:
    """One module of the file is one of ours."""
    return (Source(source),)


def qkv_rows(q: str, k: str, v: str, mlp: str | None = None) -> Sources:
    """Separate projections that we keep merged: rows q, k, v[, mlp]."""
    sources = [Source(name, (Span(0, row, 1),)) for row, name in enumerate((q, k, v))]
    if mlp is not None:
        sources.append(Source(mlp, (Span(0, 3, None),)))
    return tuple(sources)


def packed_rows(source: str, part: int) -> Sources:
    """One of three projections that the file keeps merged, q, k, v, by its place there."""
    return (Source(source, (Span(part, 0, 1),), parts=3),)


def swapped_halves(source: str) -> Sources:
    """[scale, shift] in the file, [shift, scale] in ours."""
    return (Source(source, (Span(0, 1, 1), Span(1, 0, 1))),)


@dataclass(frozen=True)
class Layout:
    """`table` maps a module of ours to what fills it.

    With `own_names` a module is first of all filled by the module of the same name. `double` and
    `single` are the block lists in the file.
    """

    name: str
    kind: Kind
    family: Family
    table: Mapping[str, Sources] = field(default_factory=dict)
    own_names: bool = True
    double: str | None = None
    single: str | None = None

    def sources(self, target: str, present: Collection[str]) -> Sources:
        """The sources that fill the parameter `target`, by their names in the file.

        With `own_names` that is the parameter of the same name, unless only sources of the table's
        row for it are in `present`.
        """
        row = self._row(target)
        if not row or (
            self.own_names
            and (target in present or not any(source.name in present for source in row))
        ):
            return (Source(target),)
        return row

    def _row(self, target: str) -> Sources:
        module, _, leaf = target.rpartition(".")
        for pattern, sources in self._patterns:
            if match := pattern.fullmatch(module):
                index = match.groupdict().get("i", "")
                return tuple(
                    source._replace(name=f"{source.name.replace('{i}', index)}.{leaf}")
                    for source in sources
                )
        return ()

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Sources]]:
        return [
            (re.compile(re.escape(target).replace(r"\{i\}", r"(?P<i>\d+)")), sources)
            for target, sources in self.table.items()
        ]
