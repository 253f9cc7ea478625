"""Programs: a plan's acts in one pass as instructions over the blocks. No tensors.

The blocks between two boundaries run at once. A boundary is where a slot's range begins or ends, or
where a probe looks.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from .plan import Act
from .policy import Slot
from .remembered import remembered
from .site import IN_BLOCKS


class Do(Enum):
    """Kinds of instruction; a `slot` is its number in the policy."""

    RUN = "run the blocks from start to stop; with slot, into that slot's buffer"
    ENTER = "remember the tokens as what enters slot"
    KEEP = "keep the tokens as slot's value"
    CHECK = "compare the tokens with slot's stand-in, and go on with that"
    STAND_IN = "go on with slot's stand-in, at stop"
    REFRESH = "run the blocks from start to stop on the rows that slot's stand-in chooses"
    NOTE = "remember the tokens for a probe"


REPLACES = {Act.STAND_IN: Do.STAND_IN, Act.REFRESH: Do.REFRESH}
"""Acts of a slot over blocks that do not run on all rows then."""


class Instruction(NamedTuple):
    """One act of a pass; see `Do`."""

    do: Do
    start: int
    stop: int
    slot: int | None = None


class Program(NamedTuple):
    """The instructions of a pass, from the tokens after the first `start` blocks."""

    instructions: tuple[Instruction, ...]
    start: int


@remembered(maxsize=4096)
def program(
    slots: tuple[Slot, ...],
    acts: tuple[Act, ...],
    blocks: int,
    notes: tuple[int, ...] = (),
    done: int = 0,
    is_under: bool = False,
) -> Program:
    """The program of a pass over `blocks` blocks, of which the first `done` have run already.

    `acts` are the pass's, one for each of `slots`. Where a probe was asked for first, blocks before
    it have run (`done`): under these acts (`is_under`, see `Ask.under`), so that what is kept or
    checked there is over; or plainly, each of them, as if no slot acted. `notes` are numbers of
    blocks after which a probe looks at the tokens. Raises ValueError where something is to be kept,
    checked or seen in a range that is not computed.
    """
    active = _active(slots, acts, blocks)
    boundaries = _boundaries(slots, active, (*notes, done), blocks)
    instructions: list[Instruction] = []
    at = 0
    while True:
        instructions += _at_boundary(slots, active, notes, at)
        jump = _stand_in_at(slots, active, at)
        if jump is not None:
            stop = slots[jump].site.stop
            _refuse_inside(slots, active, notes, at, stop)
            instructions.append(Instruction(REPLACES[active[jump]], at, stop, jump))
        elif at < blocks:
            stop = min(each for each in boundaries if each > at)
            instructions.append(Instruction(Do.RUN, at, stop, _destination(slots, active, stop)))
        else:
            _check_branches(slots, acts, instructions, 0 if is_under else done)
            return _resumed(instructions, done, is_under)
        at = stop


def _active(slots: Sequence[Slot], acts: Sequence[Act], blocks: int) -> dict[int, Act]:
    """The slots over ranges of these blocks that do more than run."""
    return {
        i: act
        for i, (slot, act) in enumerate(zip(slots, acts, strict=True))
        if slot.site.level == "blocks" and slot.site.stop <= blocks and act != Act.RUN
    }


def _boundaries(
    slots: Sequence[Slot], active: dict[int, Act], notes: Sequence[int], blocks: int
) -> set[int]:
    sites = [slots[i].site for i in active]
    return {blocks, *notes, *(s.start for s in sites), *(s.stop for s in sites)}


def _at_boundary(
    slots: Sequence[Slot], active: dict[int, Act], notes: Sequence[int], at: int
) -> list[Instruction]:
    """Instructions on the tokens before block `at`: ranges end, then begin."""
    ended = [i for i, act in active.items() if slots[i].site.stop == at and act not in REPLACES]
    does = {Act.KEEP: Do.KEEP, Act.CHECK: Do.CHECK}
    done = [Instruction(does[active[i]], at, at, i) for i in ended]
    begun = [i for i, act in active.items() if slots[i].site.start == at and act not in REPLACES]
    noted = [Instruction(Do.NOTE, at, at)] * (at in notes)
    return [*done, *noted, *(Instruction(Do.ENTER, at, at, i) for i in begun)]


def _stand_in_at(slots: Sequence[Slot], active: dict[int, Act], at: int) -> int | None:
    """The slot with the longest range that stands in, or computes rows, from block `at`."""
    here = [i for i, act in active.items() if act in REPLACES and slots[i].site.start == at]
    return max(here, key=lambda i: slots[i].site.stop, default=None)


def _destination(slots: Sequence[Slot], active: dict[int, Act], stop: int) -> int | None:
    """The slot in whose buffer blocks up to `stop` may write: the one whose range ends there."""
    ending = [i for i in active if slots[i].site.stop == stop]
    return ending[0] if [active[i] for i in ending] == [Act.KEEP] else None


def _refuse_inside(
    slots: Sequence[Slot], active: dict[int, Act], notes: Sequence[int], start: int, stop: int
) -> None:
    needed = {f"block {note} cannot be looked at": note for note in notes}
    for i in (i for i, act in active.items() if act not in REPLACES):
        needed |= {f"slot {i} cannot be computed": slots[i].site.start}
        needed |= {f"slot {i} cannot be kept": slots[i].site.stop}
    for what, at in needed.items():
        if start < at < stop:
            raise ValueError(
                f"blocks {start} to {stop - 1} are replaced by a stand-in, so that {what} in the "
                "same step; let them run"
            )


def _check_branches(
    slots: Sequence[Slot], acts: Sequence[Act], instructions: Sequence[Instruction], done: int
) -> None:
    """Raises ValueError where blocks do not run of which a slot is to keep branches."""
    stood_for, partial = (
        [(each.start, each.stop) for each in instructions if each.do == do]
        for do in (Do.STAND_IN, Do.REFRESH)
    )
    for i, (slot, act) in enumerate(zip(slots, acts, strict=True)):
        if slot.site.level not in IN_BLOCKS or act == Act.RUN:
            continue
        lost = stood_for if act != Act.STAND_IN else []
        for start, stop in (*lost, *partial, (0, done)):
            if max(start, slot.site.start) < min(stop, slot.site.stop):
                raise ValueError(
                    f"slot {i} acts within blocks {slot.site.start} to "
                    f"{slot.site.stop - 1}, of which {start} to {stop - 1} do not run under it; "
                    "let its range begin after them"
                )


def _resumed(instructions: Sequence[Instruction], done: int, is_under: bool) -> Program:
    """The program that is left once blocks up to `done` have run for a probe."""
    is_replaced = any(
        each.do in REPLACES.values() and each.start == 0 and (each.stop > done or not is_under)
        for each in instructions
    )
    if done == 0 or is_replaced:  # what has run is given up
        return Program(tuple(instructions), 0)
    left = [
        each
        for each in instructions
        if each.start >= done or (each.do == Do.ENTER and each.start == 0)
    ]
    if is_under:  # what ends there was kept or compared before the probe
        left = [e for e in left if e.start > done or e.do not in (Do.KEEP, Do.CHECK)]
    lost = [each for each in instructions if each not in left and each.do != Do.RUN]
    if lost and not is_under:
        raise ValueError(
            f"block {lost[0].start} ran before a probe after block {done} was asked for; let slot "
            f"{lost[0].slot} begin at block 0, or at {done} or later"
        )
    return Program(tuple(left), done)
