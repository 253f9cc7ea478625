"""The part of steps that depends on no latents, computed for several steps at once.

Modulations and refined text depend on the schedule and on the conditioning alone. Of few rows they
cost calls and the reading of weights, not arithmetic: where blocks are replaced they would be most
of a step. Here steps in advance are samples of one batch, as many as stay few rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.dit import DiT, Timed
from ..models.prepared import Prepared
from .guidance import StepTable

ROWS, STEPS = 1024, 16  # of text, and of steps at once: from there on more is only memory


class StepRow(NamedTuple):
    """One step as its pieces read it: `timed` of each pass, and two scalars, fp32.

    They are one tensor, since a replayed step copies each of its inputs.
    """

    timed: tuple[Timed, ...]
    scalars: Tensor

    @property
    def dt(self) -> Tensor:
        """The step's length, negative."""
        return self.scalars[0]

    @property
    def sigma_next(self) -> Tensor:
        """The noise level after it."""
        return self.scalars[1]

    def scaled(self, scale: float) -> "StepRow":
        """The same of a step in which the velocity counts `scale` times."""
        if scale == 1:
            return self
        return self._replace(scalars=torch.stack([self.dt * scale, self.sigma_next]))


class Ahead:
    """The rows of the steps of `table`, computed when the first step of several asks for them.

    Which steps are computed together does not depend on what is asked for.
    """

    def __init__(self, dit: DiT, table: StepTable, prepared: Sequence[Prepared]) -> None:
        self._dit, self._table, self._prepared = dit, table, prepared
        rows = max(each.text_states[..., 0].numel() for each in prepared)
        self._at_once = min(STEPS, max(1, ROWS // rows))
        self._first, self._rows = -1, ()

    def row(self, index: int) -> StepRow:
        """Step number `index`."""
        first = index - index % self._at_once
        if first != self._first:
            self._first, self._rows = first, self._compute(first)
        return self._rows[index - first]

    def _compute(self, first: int) -> tuple[StepRow, ...]:
        here = slice(first, first + self._at_once)
        scalars = torch.stack([self._table.dt[here], self._table.sigma_next[here]], dim=1).unbind()
        of_passes = (self._timed(each, first, len(scalars)) for each in self._prepared)
        return tuple(map(StepRow, zip(*of_passes, strict=True), scalars))

    def _timed(self, prepared: Prepared, first: int, count: int) -> Sequence[Timed]:
        """The steps of one pass from number `first` on."""
        timed = self._dit.timed(self._table.inputs(first, count), prepared.repeated(count))
        parts = [timed.vec.chunk(count), timed.text.chunk(count)]
        if prepared.first is None:  # otherwise its rows have a vector of their own
            parts.append(self._dit.modulations(timed.vec).chunk(count))
        return tuple(map(Timed, *parts))
