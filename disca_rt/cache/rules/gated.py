"""The rule of learned gates: a file says which branches are computed at which step."""

from dataclasses import dataclass, field

from ...config import DiTConfig
from ...schedule import Step
from ..gate_file import GateFile, read_gates
from ..options import File
from ..plan import Act, Seen, Setting, StepPlan, label_of_branches
from ..rule import Memoryless


@dataclass(frozen=True)
class Gated(Memoryless):
    """A branch is computed where its gate in the file `gates` is above `thres`, else reused.

    Of L2C (arXiv 2406.01733) and HarmoniCa (arXiv 2410.01723), which differ in how gates are
    learned. Computed in any case: all branches of the first step.
    """

    config: DiTConfig
    gates: File
    thres: float = 0.1
    digest: str = field(init=False, default="")
    _file: GateFile | None = field(init=False, default=None, compare=False, repr=False)
    _acts: tuple[tuple[Act, ...], ...] = field(init=False, default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        file = read_gates(self.gates, "gates", self.config)
        computed = (file.tensor > self.thres).tolist()
        computed[0] = [True] * len(computed[0])
        acts = (tuple(Act.KEEP if each else Act.STAND_IN for each in row) for row in computed)
        for name, value in (("digest", file.digest), ("_file", file), ("_acts", tuple(acts))):
            object.__setattr__(self, name, value)

    def start(self, setting: Setting) -> None:
        self._file.check_steps(self.gates, len(setting.steps))

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        acts = self._acts[step.index]
        return StepPlan((acts,) * setting.passes, label_of_branches(acts))
