"""FastCache's rule: what has hardly changed since the last step is replaced, rows and blocks."""

from dataclasses import dataclass

from ...config import DiTConfig
from ...schedule import Step
from ..labels import FULL, MOVING_ROWS, PREDICTED
from ..moving_rows import MOST
from ..plan import Act, Answer, Ask, Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults


@dataclass(frozen=True)
class LinearBlocks(RuleDefaults):
    """Block by block: replaced where |h_s - h_(s-1)|² / |h_(s-1)|² of its input is within `bound`.

    The paper's bound is χ²(1-α; N·D) / (N·D), which is 1 to three digits from 10⁷ numbers on,
    whatever α: nearly every block is replaced from the second step on. A `bound` of 0.01 is one
    that chooses. The conditional pass decides for both; the first step is computed.

    With a `motion_threshold` (the code's is 0.1) a step in which at most half of the image rows
    move runs all blocks on these alone, at the slot before those of blocks, and replaces none (a
    choice: the code may do both). An input is compared with that of the last step that had it.
    """

    config: DiTConfig
    bound: float = 1.0
    motion_threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise ValueError(f"bound must be at least 0, got {self.bound}")

    @property
    def moving(self) -> tuple[Probe, ...]:
        """The probe of rows that move, where they are asked for."""
        if self.motion_threshold is None:
            return ()
        return (Probe("tokens", norm="moving", threshold=self.motion_threshold),)

    @property
    def of_blocks(self) -> tuple[Probe, ...]:
        """The probes of the blocks' inputs."""
        blocks = range(self.config.double + self.config.single)
        return tuple(Probe("tokens", norm="l2", after=block) for block in blocks)

    @property
    def probes(self) -> tuple[Probe, ...]:
        return self.moving + self.of_blocks

    def start(self, setting: Setting) -> bool:
        """Nothing is kept yet."""
        return False

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: bool) -> Answer:
        if not memory:
            return setting.uniform(Act.KEEP, FULL, self.probes)
        for probe in self.moving:
            if probe not in seen:
                return Ask(probe)
            if seen[probe].ratio <= MOST:
                acts = Act.REFRESH, *(Act.RUN,) * (setting.slots - 1)
                return StepPlan((acts,) * setting.passes, MOVING_ROWS)
        acts = [
            Act.STAND_IN if seen[probe].ratio <= self.bound else Act.KEEP
            for probe in self.of_blocks
            if probe in seen
        ]
        whole = (Act.KEEP,) * len(self.moving)
        plan = (*whole, *acts, *(Act.RUN,) * (len(self.of_blocks) - len(acts)))
        label = PREDICTED if Act.STAND_IN in acts else FULL
        answer = StepPlan((plan,) * setting.passes, label)
        is_over = len(acts) == len(self.of_blocks)
        return answer if is_over else Ask(self.of_blocks[len(acts)], answer)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: bool
    ) -> bool:
        return True
