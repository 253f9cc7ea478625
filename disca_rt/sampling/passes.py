"""One pass of a step under a plan: embed, the blocks or what stands in for them, head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..cache.kept import WHOLE, Place
from ..cache.plan import Act
from ..cache.policy import Slot
from ..cache.program import Do, program
from ..cache.stand_in import Kept
from ..models.blocks import Branches, run_blocks
from ..tokens import StepContext


class Begun(NamedTuple):
    """A pass under way: its embedded tokens, and its `tokens` after the first `done` blocks."""

    embedded: Tensor
    tokens: Tensor
    context: StepContext
    done: int = 0


@dataclass
class Looked:
    """Tensors that probes may look at once a pass has run.

    `tokens` after blocks by number; `pairs` of computed and stand-in values by slot.
    """

    tokens: dict[int, Tensor] = field(default_factory=dict)
    pairs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class SlotsOfPass(NamedTuple):
    """The slots of one pass: their acts, buffers by place, and scalars."""

    slots: tuple[Slot, ...]
    acts: tuple[Act, ...]
    kept: tuple[dict[Place, Kept], ...]
    numbers: Sequence[Tensor | None]

    def use(
        self,
        slot: int,
        compute: Callable[[], Tensor] | None,
        entering: Tensor | None,
        looked: Looked,
        context: StepContext | None = None,
        place: Place = WHOLE,
    ) -> Tensor:
        """The value at a place of `slot`, by its act; `compute` gives the computed one."""
        act, stand_in, kept = self.acts[slot], self.slots[slot].stand_in, self.kept[slot][place]
        numbers = self.numbers[slot]
        if act == Act.STAND_IN:
            return stand_in.value(kept, entering, context, numbers)
        value = compute()
        if act == Act.KEEP:
            stand_in.keep(kept, entering, value, numbers)
        elif act == Act.CHECK:
            instead = stand_in.value(kept, entering, context, numbers)
            looked.pairs[slot] = value, instead
            return instead
        return value

    def out(self, slot: int | None) -> Tensor | None:
        """The buffer in which the value of `slot` may be computed."""
        return None if slot is None else self.slots[slot].stand_in.out(self.kept[slot][WHOLE])

    def branches(self, blocks: int, looked: Looked) -> list[Branches | None] | None:
        """The replacements of branches in each of `blocks` blocks; None where there are none."""
        acting = [
            i
            for i, act in enumerate(self.acts)
            if act != Act.RUN and self.slots[i].site.level == "branch"
        ]
        if not acting:
            return None
        slots_of: list[dict[str, int]] = [{} for _ in range(blocks)]
        for i in acting:
            for block, name in self.kept[i]:
                slots_of[block][name] = i
        return [
            BranchSlots(self, i, slots, looked) if slots else None
            for i, slots in enumerate(slots_of)
        ]


class BranchSlots:
    """The slots that act on branches of one block."""

    def __init__(
        self, of_pass: SlotsOfPass, block: int, slots: dict[str, int], looked: Looked
    ) -> None:
        self._pass, self._block, self._slots, self._looked = of_pass, block, slots, looked
        self.names = slots.keys()

    def __call__(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self._slots:
            return compute()
        place = self._block, name
        return self._pass.use(self._slots[name], compute, None, self._looked, place=place)


def run_middle(
    blocks: Sequence, begun: Begun, of_pass: SlotsOfPass, notes: tuple[int, ...]
) -> tuple[Tensor, Looked]:
    """The tokens for the head, from those of a pass under way, and what probes may look at."""
    instructions, start = program(of_pass.slots, of_pass.acts, len(blocks), notes, begun.done)
    tokens = begun.tokens if start == begun.done else begun.embedded
    looked, entered = Looked(), {}
    branches = of_pass.branches(len(blocks), looked)
    for do, begin, stop, slot in instructions:
        if do is Do.RUN:
            of_blocks = None if branches is None else branches[begin:stop]
            out = of_pass.out(slot)
            tokens = run_blocks(blocks[begin:stop], tokens, begun.context, out, of_blocks)
        elif do is Do.NOTE:
            looked.tokens[begin] = tokens
        elif do is Do.ENTER:
            entered[slot] = begun.embedded if begin == 0 else tokens
        else:
            entering = tokens if do is Do.STAND_IN else entered[slot]
            tokens = of_pass.use(slot, lambda t=tokens: t, entering, looked, begun.context)
    return tokens, looked
