"""The rule of FEB-Cache: a state for each step says which kinds of branch are computed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from ...schedule import Step
from ..calibration import Uncalibrated
from ..options import check_factor, check_number
from ..plan import Act, Seen, Setting, StepPlan, label_of_branches
from ..rule import Memoryless

COMPUTE, ATTENTION, BOTH, MLP = range(4)  # states: what is reused
COMPUTED = {
    COMPUTE: (True, True),
    ATTENTION: (False, True),
    BOTH: (False, False),
    MLP: (True, False),
}


@dataclass(frozen=True)
class States(Memoryless):
    """Attention (slot 0) and MLP (slot 1) of all blocks by the state of a step (FEB-Cache).

        state  attention  MLP
        0      computed   computed
        1      reused     computed
        2      reused     reused
        3      computed   reused    the paper has it early, the authors' code nowhere

    States of the steps are, the first of these that there is:

    - `states`, one for each step;
    - with an `interval`, by thirds of the steps (choice, after the paper): 0 at every `interval`-th
      step, in between 3 in the first third, 2 in the second, 1 in the last;
    - those of a calibration: of its `attention_errors` and `both_errors`, the errors of a step's
      output where these branches are those of the step before, as many are reused as add up to
      `budget` at most, by default the median of `both_errors` (choice: the paper searches by the
      final error and gives no bound);
    - those of an `interval` of 3.

    The model's output counts `a` times where 1000·sigma is above `T0`, `b` times elsewhere: the
    paper's scaling of the predicted noise, of which no values are published; the code divides the
    output of all steps by delta, 1/`a` = 1/`b`. Choice: here the output is a velocity.
    """

    fitted_in: ClassVar[str] = "feb-cache"
    fitted: ClassVar[tuple[str, ...]] = ("attention_errors", "both_errors")
    fitted_unless: ClassVar[tuple[str, ...]] = ("states", "interval")
    states: tuple[int, ...] = ()
    interval: int = 3
    budget: float | None = None
    attention_errors: tuple[float, ...] = ()
    both_errors: tuple[float, ...] = ()
    a: float = 1.0
    b: float = 1.0
    T0: float = 500.0

    def __post_init__(self) -> None:
        wrong = [state for state in self.states if state not in COMPUTED]
        if wrong or (self.states and self.states[0] != 0):
            raise ValueError(
                f"states must be of {[*COMPUTED]} and begin with 0, got "
                f"{','.join(map(str, self.states))}"
            )
        check_factor("a", self.a)
        check_factor("b", self.b)
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1, got {self.interval}")
        if len(self.attention_errors) != len(self.both_errors):
            raise ValueError("attention_errors and both_errors must be as many")
        if self.budget is not None:
            check_number("budget", self.budget, 0)
            if not self.both_errors:
                raise Uncalibrated(
                    "budget needs attention_errors and both_errors; a calibration has them: "
                    "disca-rt calibrate"
                )

    def start(self, setting: Setting) -> None:
        for name in ("states", "attention_errors"):
            given = len(getattr(self, name))
            if given not in (0, len(setting.steps)):
                raise ValueError(
                    f"{name} must be as many as steps, {len(setting.steps)}, got {given}"
                )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        computed = COMPUTED[self._state(setting, step)]
        acts = tuple(Act.KEEP if each else Act.STAND_IN for each in computed)
        scale = self.a if step.t > self.T0 else self.b
        return StepPlan((acts,) * setting.passes, label_of_branches(acts), scale=scale)

    def _state(self, setting: Setting, step: Step) -> int:
        if known := self.states or self._within_budget:
            return known[step.index]
        third = 3 * step.index // len(setting.steps)
        return 0 if step.index % self.interval == 0 else (3, 2, 1)[third]

    @cached_property
    def _within_budget(self) -> tuple[int, ...]:
        """The states by a calibration's errors; none without."""
        if not self.both_errors:
            return ()
        median = statistics.median(self.both_errors[1:] or (0.0,))
        budget = median if self.budget is None else self.budget
        return states_within(self.attention_errors, self.both_errors, budget)


def states_within(
    attention: Sequence[float], both: Sequence[float], budget: float
) -> tuple[int, ...]:
    """The state of each step: the one that saves most while errors since it was computed add up.

    Errors of steps since a branch was computed add up to at most `budget`; those of step 0 are not
    read.
    """
    states, since_attention, since_both = [COMPUTE], 0.0, 0.0
    for of_attention, of_both in zip(attention[1:], both[1:], strict=True):
        since_attention += of_attention
        since_both += of_both
        if since_both <= budget:
            states.append(BOTH)
        elif since_attention <= budget:
            states.append(ATTENTION)
            since_both = since_attention  # the attention is still the old one
        else:
            states.append(COMPUTE)
            since_attention = since_both = 0.0
    return tuple(states)
