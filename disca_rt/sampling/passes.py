"""One pass of a step under a plan: embed, the blocks or what stands in for them, head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..attention.protocol import AttentionInputs, Instead
from ..cache.kept import ATTENTION, WHOLE, Place
from ..cache.plan import Act, Probe
from ..cache.policy import Slot
from ..cache.program import Do, program
from ..cache.site import IN_BLOCKS, SINGLE
from ..cache.stand_in import Kept, Moment
from ..models.blocks import Branches, run_blocks
from ..tokens import StepContext
from .probes import sums


class Begun(NamedTuple):
    """A pass under way: its embedded tokens, and its `tokens` after the first `done` blocks.

    These ran by the acts of a plan where `is_under`.
    """

    embedded: Tensor
    tokens: Tensor
    context: StepContext
    done: int = 0
    is_under: bool = False


@dataclass
class Looked:
    """Measurements of one pass: `tokens` after blocks by number, and its `patches`.

    `probes` are those of slots, by slot; `sums` are theirs.
    """

    probes: dict[int, tuple[Probe, ...]] = field(default_factory=dict)
    tokens: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[Probe, Tensor] = field(default_factory=dict)
    patches: Tensor | None = None


class SlotsOfPass(NamedTuple):
    """The slots of one pass: their acts, buffers by place, and scalars.

    `conditional` are the buffers in the conditional pass, which may be this one.
    """

    slots: tuple[Slot, ...]
    acts: tuple[Act, ...]
    kept: tuple[dict[Place, Kept], ...]
    numbers: Sequence[Tensor | None]
    looked: Looked
    conditional: tuple[dict[Place, Kept], ...]

    def use(
        self,
        slot: int,
        compute: Callable[[], Tensor] | None,
        entering: Tensor | None,
        context: StepContext | None,
        place: Place = WHOLE,
        attention: AttentionInputs | None = None,
    ) -> Tensor:
        """The value at a place of `slot`, by its act; `compute` gives the computed one."""
        act, stand_in, kept = self.acts[slot], self.slots[slot].stand_in, self.kept[slot][place]
        conditional = self.conditional[slot].get(place)
        at = Moment(entering, context, self.numbers[slot], attention, conditional)
        if act == Act.STAND_IN:
            return stand_in.value(kept, at)
        value, probes = compute(), self.looked.probes.get(slot, ())
        instead = stand_in.value(kept, at) if act == Act.CHECK or probes else None
        is_joint = place == WHOLE or place[1] in (*SINGLE, ATTENTION)
        for probe in probes:
            pair = sums(probe, value, instead, context if is_joint else None)
            self.looked.sums[probe] = self.looked.sums.get(probe, 0) + pair  # of all its places
        if act == Act.KEEP:
            stand_in.keep(kept, value, at)
        return instead if act == Act.CHECK else value

    def out(self, slot: int | None) -> Tensor | None:
        """The buffer in which the value of `slot` may be computed, if it is not looked at."""
        if slot is None or slot in self.looked.probes:
            return None
        return self.slots[slot].stand_in.out(self.kept[slot][WHOLE])

    def branches(self, blocks: int, context: StepContext) -> list[Branches | None] | None:
        """The replacements of branches in each of `blocks` blocks; None where there are none."""
        acting = [
            i
            for i, act in enumerate(self.acts)
            if act != Act.RUN and self.slots[i].site.level in IN_BLOCKS
        ]
        if not acting:
            return None
        slots_of: list[dict[str, list[int]]] = [{} for _ in range(blocks)]
        for i in acting:
            for block, name in self.kept[i]:
                if block < blocks:
                    slots_of[block].setdefault(name, []).append(i)
        return [
            BranchSlots(self, i, slots, context) if slots else None
            for i, slots in enumerate(slots_of)
        ]


class BranchSlots:
    """The slots that act within one block: one on each branch, any number on its attention."""

    def __init__(
        self, of_pass: SlotsOfPass, block: int, slots: dict[str, list[int]], context: StepContext
    ) -> None:
        self._pass, self._block, self._context = of_pass, block, context
        self._attending = slots.pop(ATTENTION, [])
        self._slots, self.names = slots, slots.keys()
        self.instead: Instead | None = self._attend if self._attending else None

    def __call__(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self._slots:
            return compute()
        (slot,) = self._slots[name]
        return self._pass.use(slot, compute, None, self._context, (self._block, name))

    def _attend(self, inputs: AttentionInputs) -> Tensor:
        """The first slot that stands in gives the output; then others may keep it."""
        use = partial(
            self._pass.use,
            entering=None,
            context=self._context._replace(layout=inputs.layout),
            place=(self._block, ATTENTION),
            attention=inputs,
        )
        acts = self._pass.acts
        standing = [slot for slot in self._attending if acts[slot] == Act.STAND_IN]
        value = use(standing[0], None) if standing else inputs.to_all_keys()
        for slot in self._attending:
            if slot not in standing:
                value = use(slot, lambda v=value: v)
        return value


def run_middle(
    blocks: Sequence, begun: Begun, of_pass: SlotsOfPass, notes: tuple[int, ...]
) -> Tensor:
    """The tokens after `blocks`, from those of a pass under way; notes what probes look at."""
    instructions, start = program(
        of_pass.slots, of_pass.acts, len(blocks), notes, begun.done, begun.is_under
    )
    tokens = begun.tokens if start == begun.done else begun.embedded
    entered: dict[int, Tensor] = {}
    branches = of_pass.branches(len(blocks), begun.context)
    for do, begin, stop, slot in instructions:
        if do is Do.RUN:
            of_blocks = None if branches is None else branches[begin:stop]
            out = of_pass.out(slot)
            tokens = run_blocks(blocks[begin:stop], tokens, begun.context, out, of_blocks)
        elif do is Do.NOTE:
            of_pass.looked.tokens[begin] = tokens
        elif do is Do.ENTER:
            entered[slot] = begun.embedded if begin == 0 else tokens
        else:
            entering = tokens if do is Do.STAND_IN else entered[slot]
            tokens = of_pass.use(slot, lambda t=tokens: t, entering, begun.context)
    return tokens
