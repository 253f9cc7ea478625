"""The part of steps that depends on no latents, computed for several steps at once.

Modulations and refined text depend on the schedule and on the conditioning alone. Of few rows they
cost calls and the reading of weights, not arithmetic: where blocks are replaced they would be most
of a step. Here steps in advance are samples of one batch, as many as stay few rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..models.dit import DiT, Timed
from ..models.prepared import Prepared
from .guidance import StepTable

ROWS = 1024  # of text at once: from there on more steps are only memory


class StepRow(NamedTuple):
    """One step as its pieces read it: `timed` of each pass, and fp32 `dt []`, its length, negative.

    `sigma_next []` fp32 is the noise level after it, where something is held at it.
    """

    timed: tuple[Timed, ...]
    times: tuple[Tensor, ...]

    @property
    def dt(self) -> Tensor:
        return self.times[0]

    @property
    def sigma_next(self) -> Tensor:
        return self.times[1]

    def scaled(self, scale: float) -> "StepRow":
        """The same of a step in which the velocity counts `scale` times."""
        return self._replace(times=(self.dt * scale, *self.times[1:]))


class Ahead:
    """The rows of the steps of `table`, computed when the first step of several asks for them.

    Which steps are computed together does not depend on what is asked for.
    """

    def __init__(self, dit: DiT, table: StepTable, prepared: Sequence[Prepared]) -> None:
        self._dit, self._table, self._prepared = dit, table, prepared
        rows = max(each.text_states[..., 0].numel() for each in prepared)
        self._at_once = max(1, ROWS // rows)
        self._first, self._rows = -1, ()

    def row(self, index: int) -> StepRow:
        """Step number `index`."""
        first = index - index % self._at_once
        if first != self._first:
            self._first, self._rows = -1, ()  # not beside those that take their place
            self._first, self._rows = first, self._compute(first)
        return self._rows[index - first]

    def _compute(self, first: int) -> tuple[StepRow, ...]:
        given = (self._table.dt, self._table.sigma_next)
        times = [each[first : first + self._at_once].unbind() for each in given if each is not None]
        of_passes = (self._timed(each, first, len(times[0])) for each in self._prepared)
        steps = zip(*of_passes, strict=True), zip(*times, strict=True)
        return tuple(map(StepRow, *steps))

    def _timed(self, prepared: Prepared, first: int, count: int) -> Sequence[Timed]:
        """The steps of one pass from number `first` on."""
        timed = self._dit.timed(self._table.inputs(first, count), prepared.repeated(count))
        parts = [timed.vec.chunk(count), timed.text.chunk(count)]
        if prepared.first is None:  # otherwise its rows have a vector of their own
            parts.append(self._dit.modulations(timed.vec).chunk(count))
        return tuple(map(Timed, *parts))
