"""The rule of FEB-Cache: a state for each step says which kinds of branch are computed."""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_factor
from ..plan import FULL, PREDICTED, Act, Seen, Setting, StepPlan
from ..rule import Memoryless

PARTIAL = "partial"
COMPUTED = {0: (True, True), 1: (False, True), 2: (False, False), 3: (True, False)}


@dataclass(frozen=True)
class States(Memoryless):
    """Attention (slot 0) and MLP (slot 1) of all blocks by the state of a step (FEB-Cache).

    0: both are computed, 1: attention is reused, 2: both are, as in the authors' code; 3: the MLP
    is reused and attention computed, which the paper has early and the code nowhere. `states` has
    one for each step. Without any: choice of ours after the paper, by thirds of the steps: 0 at
    every `interval`-th step; between those 3 in the first third, 2 in the second, 1 in the last.
    The model's output counts `a` times where 1000·sigma is above `T0`, `b` times elsewhere: the
    paper's scaling of the predicted noise, of which no values are published; the code divides the
    output of all steps by delta, 1/`a` = 1/`b`. Choice: here the output is a velocity.
    """

    states: tuple[int, ...] = ()
    interval: int = 3
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

    def start(self, setting: Setting) -> None:
        if self.states and len(self.states) != len(setting.steps):
            raise ValueError(
                f"states must be as many as steps, {len(setting.steps)}, got {len(self.states)}"
            )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        computed = COMPUTED[self._state(setting, step)]
        acts = tuple(Act.KEEP if each else Act.STAND_IN for each in computed)
        scale = self.a if step.t > self.T0 else self.b
        return StepPlan((acts,) * setting.passes, label_of(acts), scale=scale)

    def _state(self, setting: Setting, step: Step) -> int:
        if self.states:
            return self.states[step.index]
        third = 3 * step.index // len(setting.steps)
        return 0 if step.index % self.interval == 0 else (3, 2, 1)[third]


def label_of(acts: tuple[Act, ...]) -> str:
    """The label of a step in which slots act so."""
    if Act.STAND_IN not in acts:
        return FULL
    return PARTIAL if Act.KEEP in acts else PREDICTED
