"""Ranges of blocks: which of them a method replaces, in any model. Knows no tensors.

What a rule and a placement of one method must agree on is here too: DBCache's `middles`, and
ProfilingDiT's double blocks. A number of a published model is taken to another one by proportion,
which is our choice.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..config import DiTConfig
from .site import Site


class Middle(NamedTuple):
    """The blocks of one kind, `begin` to `end` - 1, of which `start` to `stop` - 1 are replaced."""

    begin: int
    start: int
    stop: int
    end: int

    @property
    def site(self) -> Site:
        return Site("blocks", self.start, self.stop)


def kinds(config: DiTConfig) -> list[range]:
    """The blocks of each kind that the model has: double ones, then single ones."""
    blocks = range(0, config.double), range(config.double, config.double + config.single)
    return [each for each in blocks if each]


def middles(config: DiTConfig, first: int | None, last: int) -> list[Middle]:
    """Each kind of blocks but its `first` and its `last` ones; kinds that have no more run.

    `first` None: 8, cache-dit's default, or 1 where no kind has more than 8. ValueError where no
    kind has more than both.
    """
    if first is None:
        first = 8 if max(map(len, kinds(config))) > 8 + last else 1
    found = [
        Middle(each.start, each.start + first, each.stop - last, each.stop)
        for each in kinds(config)
    ]
    left = [each for each in found if each.start < each.stop]
    if not left:
        most = max(map(len, kinds(config)))
        raise ValueError(
            f"Fn_compute_blocks + Bn_compute_blocks must be below {most}, the most blocks of one "
            f"kind in this model, got {first} + {last}"
        )
    return left


def scaled(number: int, of: int, to: int) -> int:
    """`number` of `of` blocks as a number of `to` blocks, rounded."""
    return round(number * to / of)


def runs(numbers: Sequence[int]) -> list[range]:
    """Rising `numbers` as runs of consecutive ones."""
    found: list[range] = []
    for number in numbers:
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


def profiled_double(config: DiTConfig, start: int | None, number: int | None) -> range:
    """The double blocks that ProfilingDiT replaces: `number` from `start` on.

    None: the last 14 of 20 of its code, by proportion, rounded to fewer.
    """
    first = -(-6 * config.double // 20) if start is None else start
    return range(first, config.double if number is None else first + number)
