"""One pass of a step under a plan: the blocks, or what stands in for them and their branches."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..attention.kept_keys import KeptKeys, Rows
from ..attention.protocol import Attention, AttentionInputs, With
from ..cache.plan import Act
from ..cache.program import Do, program
from ..cache.site import DOUBLE, IN_BLOCKS, SINGLE
from ..cache.stand_in import ATTENTION, WHOLE
from ..models.blocks import run_blocks
from ..models.branches import Branches, Compute
from ..models.stream import Branch
from ..tokens import StepContext, Vector
from .slots import SlotsOfPass

BRANCHES = {**DOUBLE, **SINGLE}


class Begun(NamedTuple):
    """A pass under way: its embedded tokens, and its `tokens` after the first `done` blocks.

    These ran by the acts of a plan where `is_under`.
    """

    embedded: Tensor
    tokens: Tensor
    context: StepContext
    done: int = 0
    is_under: bool = False


Around = Callable[[Attention], Attention]
"""Makes a block's own attention of the model's."""


def around(
    kept: tuple[Tensor, Tensor], context: StepContext, rows: Rows | None, attention: Attention
) -> Attention:
    """`attention` to the keys and values in the buffers `kept`, each `[B, S, H·D]`, of all rows.

    Those of the rows that the block computes are written into the buffers first: `rows`, or all of
    them for None. `context` is that of all rows.
    """
    return KeptKeys(attention, *kept, context.layout, rows)


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


def _branches(
    of_pass: SlotsOfPass, blocks: int, context: StepContext
) -> list[Branches | None] | None:
    """The replacements of branches in each of `blocks` blocks; None where there are none."""
    acting = [
        i
        for i, act in enumerate(of_pass.acts)
        if act != Act.RUN and of_pass.slots[i].site.level in IN_BLOCKS
    ]
    keys = _kept_keys(of_pass, context)
    if not acting and not keys:
        return None
    slots_of: list[dict[str, int]] = [{} for _ in range(blocks)]
    attending: list[list[int]] = [[] for _ in range(blocks)]
    for i in acting:
        for block, name in of_pass.kept[i]:
            if block < blocks and name in BRANCHES:
                slots_of[block][name] = i
            elif block < blocks and name == ATTENTION:
                attending[block].append(i)
    return [
        BranchSlots(of_pass, i, slots, context, keys.get(i), attending[i])
        if slots or attending[i] or i in keys
        else None
        for i, slots in enumerate(slots_of)
    ]


def _kept_keys(of_pass: SlotsOfPass, context: StepContext) -> dict[int, Around]:
    """Attentions that keep the keys and values of all rows, by block."""
    found: dict[int, Around] = {}
    for i, (act, (site, stand_in)) in enumerate(zip(of_pass.acts, of_pass.slots, strict=True)):
        if act == Act.KEEP and stand_in.has_keys:
            for block in range(site.start, site.stop):
                kept = stand_in.keys(of_pass.kept[i][WHOLE], block - site.start)
                found[block] = partial(around, kept, context, None)
    return found


def _run_rows(
    of_pass: SlotsOfPass,
    slot: int,
    blocks: Sequence,
    tokens: Tensor,
    context: StepContext,
    rows: Rows,
) -> Tensor:
    """The tokens `[B, R, C]` of some rows after the blocks of `slot`, with the others' keys."""
    _, stand_in = of_pass.slots[slot]
    kept, layout = of_pass.kept[slot][WHOLE], context.layout
    img = rows.index[: len(rows.index) - (tokens.shape[1] - layout.img_len)]
    own = context._replace(
        freqs_cos=context.freqs_cos[img],
        freqs_sin=context.freqs_sin[img],
        layout=layout._replace(img_len=len(img)),
    )
    branches = [
        BranchSlots(of_pass, i, {}, own, partial(around, stand_in.keys(kept, i), context, rows))
        for i in range(len(blocks))
    ]
    return run_blocks(blocks, tokens[:, rows.index], own, None, branches)


def run_middle(
    blocks: Sequence, begun: Begun, of_pass: SlotsOfPass, notes: tuple[int, ...]
) -> Tensor:
    """The tokens after `blocks`, from those of a pass under way; notes what probes look at."""
    instructions, start = program(
        of_pass.slots, of_pass.acts, len(blocks), notes, begun.done, begun.is_under
    )
    tokens = begun.tokens if start == begun.done else begun.embedded
    entered: dict[int, Tensor] = {}
    branches = _branches(of_pass, len(blocks), begun.context)
    for do, begin, stop, slot in instructions:
        if do is Do.RUN:
            of_blocks = None if branches is None else branches[begin:stop]
            out = of_pass.out(slot)
            tokens = run_blocks(blocks[begin:stop], tokens, begun.context, out, of_blocks)
        elif do is Do.REFRESH:
            run = partial(_run_rows, of_pass, slot, blocks[begin:stop], tokens, begun.context)
            tokens = of_pass.use(slot, run, tokens, begun.context)
        elif do is Do.NOTE:
            of_pass.looked.tokens[begin] = tokens
        elif do is Do.ENTER:
            entered[slot] = begun.embedded if begin == 0 else tokens
        else:
            entering = tokens if do is Do.STAND_IN else entered[slot]
            tokens = of_pass.use(slot, lambda t=tokens: t, entering, begun.context)
    return tokens
