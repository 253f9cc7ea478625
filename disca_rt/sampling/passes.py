"""One pass of a step under a plan: embed, the blocks or what stands in for them, head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..attention.kept_keys import KeptKeys, Rows
from ..attention.protocol import Attention, AttentionInputs, With
from ..cache.kept import GATE_GROUPS, gate_of
from ..cache.plan import Act, Probe
from ..cache.policy import Slot
from ..cache.program import Do, program
from ..cache.site import DOUBLE, IN_BLOCKS, SINGLE
from ..cache.stand_in import ATTENTION, WHOLE, Beside, Kept, Moment, OtherPass, Place, refreshes
from ..models.blocks import PARTS, Branches, Compute, run_blocks
from ..models.row_groups import gate_rows
from ..models.stream import Branch
from ..sharding import Sharding
from ..tokens import StepContext, TokenLayout, Vector, groups, weighted, with_groups
from .probes import motion, sums

BRANCHES = {**DOUBLE, **SINGLE}
INTO = {*DOUBLE, "total", *PARTS}  # branches that end in a product, which may go into a buffer


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

    `probes` are those of slots, by slot; `sums` are theirs. `gather` gives the image rows of all
    ranks.
    """

    gather: Callable[[Tensor, TokenLayout], Tensor]
    probes: dict[int, tuple[Probe, ...]] = field(default_factory=dict)
    tokens: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[Probe, Tensor] = field(default_factory=dict)
    patches: Tensor | None = None


Around = Callable[[Attention], Attention]
"""Makes an attention of a block's own."""


def around(
    kept: tuple[Tensor, Tensor], context: StepContext, rows: Rows | None, attention: Attention
) -> Attention:
    """`attention` with keys and values `kept`; `context` is that of all rows."""
    return KeptKeys(attention, *kept, context.layout, rows)


class SlotsOfPass(NamedTuple):
    """The slots of pass `number`: their acts and scalars, and the buffers of all passes.

    `edited` are the rows of a sample's edit, None where it has none.
    """

    slots: tuple[Slot, ...]
    acts: tuple[Act, ...]
    number: int
    numbers: Sequence[Tensor | None]
    looked: Looked
    beside: Beside
    sharding: Sharding
    lengths: tuple[Tensor | None, ...] = ()  # image plus valid text tokens of each pass
    edited: Tensor | None = None

    @property
    def kept(self) -> tuple[dict[Place, Kept], ...]:
        """The buffers of each slot, by place."""
        return self.beside[self.number]

    def use(
        self,
        slot: int,
        compute: Callable[..., Tensor] | None,
        entering: Tensor | None,
        context: StepContext | None,
        place: Place = WHOLE,
        gates: tuple[Vector, Vector] | None = None,
        attention: AttentionInputs | None = None,
    ) -> Tensor:
        """The value at a place of `slot`, by its act; `compute` gives the computed one.

        Where rows can be computed alone, it takes their numbers. Probes see the value times the
        first of `gates`, and the stand-in's times the second.
        """
        act, stand_in, kept = self.acts[slot], self.slots[slot].stand_in, self.kept[slot][place]
        at = self._moment(slot, entering, context, place, attention)
        if act == Act.STAND_IN:
            return stand_in.value(kept, at)
        if act == Act.REFRESH:
            return stand_in.refresh(kept, compute, at)
        value, probes = compute(), self.looked.probes.get(slot, ())
        instead = stand_in.value(kept, at) if act == Act.CHECK or probes else None
        for probe in probes:
            pair = self._sums(probe, value, instead, context, place, gates)
            self.looked.sums[probe] = self.looked.sums.get(probe, 0) + pair  # of all its places
        if act == Act.KEEP:
            stand_in.keep(kept, value, at)
        return instead if act == Act.CHECK else value

    def _moment(
        self,
        slot: int,
        entering: Tensor | None,
        context: StepContext | None,
        place: Place,
        attention: AttentionInputs | None = None,
    ) -> Moment:
        return Moment(
            entering,
            context,
            self.numbers[slot],
            self.sharding,
            self._other(slot, place),
            place,
            self.beside,
            self.number,
            attention,
            self.edited,
            self.slots[slot].site,
        )

    def _other(self, slot: int, place: Place) -> OtherPass | None:
        if len(self.lengths) < 2 or not self.slots[slot].stand_in.reads_other_pass:
            return None
        other = 1 - self.number
        return OtherPass(self.beside[other][slot][place], self.lengths[other])

    def _sums(
        self,
        probe: Probe,
        value: Tensor,
        instead: Tensor,
        context: StepContext | None,
        place: Place,
        gates: tuple[Vector, Vector] | None,
    ) -> Tensor:
        """The two sums of a probe of a slot."""
        if gates is not None:
            value, instead = (
                gate_rows(each, gate) for each, gate in zip((value, instead), gates, strict=True)
            )
        if probe.norm == "motion":
            layout = context.layout
            return motion(self.looked.gather(value[:, : layout.img_len], layout), layout)
        is_text = place[1].startswith("txt")
        may_be_padded = place == WHOLE or place[1] in (*SINGLE, ATTENTION) or is_text
        return sums(probe, value, instead, context if may_be_padded else None, is_text)

    def use_branch(
        self, slot: int, compute: Compute, gate: Vector, context: StepContext, place: Place
    ) -> Branch:
        """A branch by the act of `slot`, with the gate that goes with it."""
        if self.acts[slot] == Act.STAND_IN and not self.slots[slot].site.gated:
            return self._replaced(slot, gate, context, place)
        out = self.out(slot, place) if place[1] in INTO else None
        computed = compute if out is None else partial(compute, out=out)
        if self.acts[slot] == Act.REFRESH:
            computed = lambda rows: compute(rows=rows)  # noqa: E731
        if not self.slots[slot].site.gated:
            return Branch(self.use(slot, computed, None, context, place), gate)
        act, stand_in = self.acts[slot], self.slots[slot].stand_in
        kept, at = (
            self.kept[slot][gate_of(place)],
            Moment(None, context, self.numbers[slot]),
        )
        is_replaced = act in (Act.STAND_IN, Act.CHECK)
        gates = None
        if is_replaced or slot in self.looked.probes:
            gates = gate, with_groups(gate, stand_in.value(kept, at))
        value = self.use(slot, computed, None, context, place, gates)
        if act == Act.KEEP:
            stand_in.keep(kept, groups(gate, GATE_GROUPS), at)
        return Branch(value, gates[1] if is_replaced else gate)

    def _replaced(
        self, slot: int, gate: Vector | None, context: StepContext, place: Place
    ) -> Branch:
        """What stands in for a branch: its terms with the gate's share of each, or its value."""
        stand_in, kept = self.slots[slot].stand_in, self.kept[slot][place]
        at = self._moment(slot, None, context, place)
        if gate is None:
            return Branch(stand_in.value(kept, at), None)
        terms = stand_in.terms(kept, at)
        pairs = zip(terms.tensors.unbind(), weighted(gate, terms.weights), strict=True)
        (value, first), *more = pairs
        return Branch(value, first, tuple(more), terms.stays)

    def out(self, slot: int | None, place: Place = WHOLE) -> Tensor | None:
        """The buffer in which `slot`'s value to be kept may be computed, if it is not looked at."""
        if slot is None or slot in self.looked.probes or self.acts[slot] != Act.KEEP:
            return None
        return self.slots[slot].stand_in.out(self.kept[slot][place])

    def branches(self, blocks: int, context: StepContext) -> list[Branches | None] | None:
        """The replacements of branches in each of `blocks` blocks; None where there are none."""
        acting = [
            i
            for i, act in enumerate(self.acts)
            if act != Act.RUN and self.slots[i].site.level in IN_BLOCKS
        ]
        keys = self._kept_keys(context)
        if not acting and not keys:
            return None
        slots_of: list[dict[str, int]] = [{} for _ in range(blocks)]
        attending: list[list[int]] = [[] for _ in range(blocks)]
        for i in acting:
            for block, name in self.kept[i]:
                if block < blocks and name in BRANCHES:
                    slots_of[block][name] = i
                elif block < blocks and name == ATTENTION:
                    attending[block].append(i)
        return [
            BranchSlots(self, i, slots, context, keys.get(i), attending[i])
            if slots or attending[i] or i in keys
            else None
            for i, slots in enumerate(slots_of)
        ]

    def _kept_keys(self, context: StepContext) -> dict[int, Around]:
        """What keeps the keys and values of all rows, by block."""
        found: dict[int, Around] = {}
        for i, (act, (site, stand_in)) in enumerate(zip(self.acts, self.slots, strict=True)):
            if act == Act.KEEP and site.level == "blocks" and refreshes(stand_in):
                for block in range(site.start, site.stop):
                    kept = stand_in.keys(self.kept[i][WHOLE], block - site.start)
                    found[block] = partial(around, kept, context, None)
        return found

    def run_rows(
        self, slot: int, blocks: Sequence, tokens: Tensor, context: StepContext, rows: Rows
    ) -> Tensor:
        """The tokens `[B, R, C]` of some rows after the blocks of `slot`, with the others' keys."""
        _, stand_in = self.slots[slot]
        kept, layout = self.kept[slot][WHOLE], context.layout
        img = rows.index[: len(rows.index) - (tokens.shape[1] - layout.img_len)]
        own = context._replace(
            freqs_cos=context.freqs_cos[img],
            freqs_sin=context.freqs_sin[img],
            layout=layout._replace(img_len=len(img)),
        )
        branches = [
            BranchSlots(self, i, {}, own, partial(around, stand_in.keys(kept, i), context, rows))
            for i in range(len(blocks))
        ]
        return run_blocks(blocks, tokens[:, rows.index], own, None, branches)


class BranchSlots:
    """The slots that act on branches of one block or on its attention, and what keeps its keys."""

    def __init__(
        self,
        of_pass: SlotsOfPass,
        block: int,
        slots: dict[str, int],
        context: StepContext,
        keys: Around | None = None,
        attending: Sequence[int] = (),
    ) -> None:
        self._pass, self._block, self._slots, self._context = of_pass, block, slots, context
        self._keys, self._attending, self.names = keys, attending, slots.keys()

    def around(self, attention: Attention) -> Attention:
        attention = With(attention, self._attend) if self._attending else attention
        return attention if self._keys is None else self._keys(attention)

    def __call__(self, name: str, compute: Compute, gate: Vector | None = None) -> Branch:
        if name not in self._slots:
            return Branch(compute(), gate)
        place = self._block, name
        return self._pass.use_branch(self._slots[name], compute, gate, self._context, place)

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
        elif do is Do.REFRESH:
            run = partial(of_pass.run_rows, slot, blocks[begin:stop], tokens, begun.context)
            tokens = of_pass.use(slot, run, tokens, begun.context)
        elif do is Do.NOTE:
            of_pass.looked.tokens[begin] = tokens
        elif do is Do.ENTER:
            entered[slot] = begun.embedded if begin == 0 else tokens
        else:
            entering = tokens if do is Do.STAND_IN else entered[slot]
            tokens = of_pass.use(slot, lambda t=tokens: t, entering, begun.context)
    return tokens
