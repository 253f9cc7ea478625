"""The slots of one pass under a plan: the value at each place by its slot's act."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..attention.protocol import AttentionInputs
from ..cache.kept import GATE_GROUPS, gate_of
from ..cache.plan import Act, Probe
from ..cache.policy import Slot
from ..cache.site import DOUBLE, SINGLE
from ..cache.stand_in import ATTENTION, WHOLE, Beside, Kept, Moment, OtherPass, Place
from ..models.branches import PARTS, Compute
from ..models.row_groups import gate_rows
from ..models.stream import Branch
from ..sharding import Sharding
from ..tokens import StepContext, TokenLayout, Vector, groups, weighted, with_groups
from .probes import motion, sums

INTO = {*DOUBLE, "total", *PARTS}  # branches that end in a product, which may go into a buffer


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


class SlotsOfPass(NamedTuple):
    """The slots of pass number `which_pass`: their acts and scalars, and the buffers of all passes.

    `edited` are the rows of a sample's edit, None where it has none.
    """

    slots: tuple[Slot, ...]
    acts: tuple[Act, ...]
    which_pass: int
    numbers: Sequence[Tensor | None]
    looked: Looked
    beside: Beside
    sharding: Sharding
    lengths: tuple[Tensor | None, ...] = ()  # image plus valid text tokens of each pass
    edited: Tensor | None = None

    @property
    def kept(self) -> tuple[dict[Place, Kept], ...]:
        """The buffers of each slot, by place."""
        return self.beside[self.which_pass]

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
        """The value at a place of `slot`, by its act.

        `compute()` gives the computed one; under REFRESH it is what the stand-in's `refresh` calls
        (`stand_in.RowStandIn`), and None where the act is known to be STAND_IN. The other arguments
        are those of `Moment`, but for `gates`: a branch's own and the stand-in's, by which probes
        of the slot multiply the computed value and the stand-in's before they compare them.
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
            self.which_pass,
            attention,
            self.edited,
            self.slots[slot].site,
        )

    def _other(self, slot: int, place: Place) -> OtherPass | None:
        if len(self.lengths) < 2 or not self.slots[slot].stand_in.reads_other_pass:
            return None
        other = 1 - self.which_pass
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
        of_gate = gate_of(place)
        kept, at = self.kept[slot][of_gate], self._moment(slot, None, context, of_gate)
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
        """Replacement of a branch: the terms of its value, each with the gate's share of it."""
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
