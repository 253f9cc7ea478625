"""The rule of LazyDiT: a learned linear head says of each branch whether it is worth computing."""

from dataclasses import dataclass, field
from math import exp

from torch import Tensor

from ...config import DiTConfig
from ...schedule import Step
from ..gate_file import GateFile, read_gates
from ..options import File
from ..placements.branches import pairs
from ..plan import Act, Answer, Ask, Probe, Seen, Setting, StepPlan, label_of_branches
from ..rule import Memoryless


@dataclass(frozen=True)
class Lazy(Memoryless):
    """A branch is computed where its score is at least `threshold` (LazyDiT, arXiv 2412.12444).

    The score is the sigmoid of <W, z>, of the head W of this step and slot in the file `heads`, and
    the modulated input z of the branch. Choices: the mean over image rows, where the authors' code
    takes the sum, which grows with their number; both decisions of a double-stream block are taken
    where it begins, of its MLPs by the tokens entering it under the MLP's modulation; the batch and
    both passes decide together, by the conditional pass. The first step computes everything.
    """

    config: DiTConfig
    heads: File
    threshold: float = 0.5
    digest: str = field(init=False, default="")
    probes: tuple[Probe, ...] = field(init=False, default=(), compare=False, repr=False)
    _file: GateFile | None = field(init=False, default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        file = read_gates(self.heads, "heads", self.config)
        probes = (
            Probe("score", "head", after=site.start, slot=slot)
            for slot, site in enumerate(pairs(self.config))
        )
        for name, value in (("digest", file.digest), ("probes", tuple(probes)), ("_file", file)):
            object.__setattr__(self, name, value)

    def start(self, setting: Setting) -> bool:
        """False: no step has been computed yet. ValueError where the heads are of other steps."""
        self._file.check_steps(self.heads, len(setting.steps))
        return False

    def head(self, step: int, slot: int) -> Tensor:
        """The head `[C]` fp32 of a step and slot, for whoever measures the probe."""
        return self._file.tensor[step, slot]

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: bool) -> Answer:
        if not memory:
            return setting.full
        acts = tuple(self._act(seen[probe].ratio) for probe in self.probes[: len(seen)])
        if len(acts) == len(self.probes):
            return StepPlan((acts,) * setting.passes, label_of_branches(acts))
        under = (*acts, *[Act.RUN] * (setting.slots - len(acts)))
        return Ask(self.probes[len(acts)], StepPlan((under,) * setting.passes))

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: bool
    ) -> bool:
        return True

    def _act(self, mean: float) -> Act:
        score = 1 / (1 + exp(-mean)) if mean > -700 else 0.0  # where exp would overflow
        return Act.KEEP if score >= self.threshold else Act.STAND_IN
