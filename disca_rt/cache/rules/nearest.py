"""Tables of so many steps for samples of another number, by the nearest entry."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def nearest(table: Sequence[T], steps: int) -> tuple[T, ...]:
    """`table` with `steps` entries: its first and last one, and the nearest ones between.

    As MagCache's code does; of one step it is the last entry.
    """
    if len(table) == steps:
        return tuple(table)
    if steps == 1:
        return (table[-1],)
    scale = (len(table) - 1) / (steps - 1)
    return tuple(table[round(i * scale)] for i in range(steps))
