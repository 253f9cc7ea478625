"""FastCache's rule: a block whose input has hardly changed since the last step is replaced."""

from dataclasses import dataclass

from ...config import DiTConfig
from ...schedule import Step
from ..plan import FULL, PREDICTED, Act, Answer, Ask, Probe, Seen, Setting, StepPlan


@dataclass(frozen=True)
class LinearBlocks:
    """Block by block: replaced where |h_s - h_(s-1)|² / |h_(s-1)|² of its input is within `bound`.

    The paper's bound is χ²(1-α; N·D) / (N·D), which is 1 to three digits from 10⁷ numbers on,
    whatever α: nearly every block is replaced from the second step on. A `bound` of 0.01 is one
    that chooses. The conditional pass decides for both; the first step is computed.
    """

    config: DiTConfig
    bound: float = 1.0

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise ValueError(f"bound must be at least 0, got {self.bound}")

    @property
    def probes(self) -> tuple[Probe, ...]:
        blocks = range(self.config.double + self.config.single)
        return tuple(Probe("tokens", "previous", "l2", block) for block in blocks)

    def start(self, setting: Setting) -> bool:
        """Nothing is kept yet."""
        return False

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: bool) -> Answer:
        if not memory:
            return setting.uniform(Act.KEEP, FULL, self.probes)
        acts = [
            Act.STAND_IN if seen[probe].ratio <= self.bound else Act.KEEP
            for probe in self.probes
            if probe in seen
        ]
        plan = (*acts, *(Act.RUN,) * (setting.slots - len(acts)))
        label = PREDICTED if Act.STAND_IN in acts else FULL
        answer = StepPlan((plan,) * setting.passes, label)
        return answer if len(acts) == len(self.probes) else Ask(self.probes[len(acts)], answer)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: bool
    ) -> bool:
        return True
