"""The rule of PAB: attention of a window of noise levels is broadcast over some steps."""

from dataclasses import dataclass

from ...schedule import Step
from ..labels import FULL, PREDICTED
from ..options import check_int
from ..plan import Act, Seen, Setting, StepPlan
from ..rule import Memoryless


@dataclass(frozen=True)
class Broadcast(Memoryless):
    """Attention again within a window, MLPs after some steps (PAB, arXiv 2408.12588).

    At 1000·sigma strictly between the two numbers of `spatial_attention_timestep_skip_range`
    attention is computed at step indices that `spatial_attention_block_skip_range` divides, outside
    at every step (diffusers). The first slot is that of attention; a second one, of MLPs, is there
    where `mlp_timesteps` has any: the first step at or below each of them computes its MLPs, and
    the `mlp_skip_count` after it have these again (Open-Sora). Choice: Open-Sora has exact
    timesteps of its 30 steps there, which other schedules lack. `last_step_full` computes the last
    step too: eight in 50 with a range of 8, DisCa's count.
    """

    spatial_attention_block_skip_range: int = 2
    spatial_attention_timestep_skip_range: tuple[float, ...] = (100.0, 800.0)
    mlp_timesteps: tuple[float, ...] = ()
    mlp_skip_count: int = 2
    last_step_full: bool = False

    def __post_init__(self) -> None:
        for name, least in (("spatial_attention_block_skip_range", 1), ("mlp_skip_count", 0)):
            check_int(name, getattr(self, name), least)
        window = self.spatial_attention_timestep_skip_range
        if len(window) != 2 or not window[0] < window[1]:
            raise ValueError(
                "spatial_attention_timestep_skip_range must be two rising numbers such as 100,800, "
                f"got {','.join(map(str, window))}"
            )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        is_last = self.last_step_full and step.index == len(setting.steps) - 1
        attention = Act.KEEP if is_last else self._attention(step)
        acts = (attention, *[self._mlp(setting, step)] * bool(self.mlp_timesteps))
        label = PREDICTED if attention is Act.STAND_IN else FULL
        return StepPlan((acts,) * setting.passes, label)

    def _attention(self, step: Step) -> Act:
        low, high = self.spatial_attention_timestep_skip_range
        is_due = step.index % self.spatial_attention_block_skip_range == 0
        return Act.KEEP if is_due or not low < step.t < high else Act.STAND_IN

    def _mlp(self, setting: Setting, step: Step) -> Act:
        starts = self._mlp_starts(setting)
        if step.index in starts:
            return Act.KEEP
        is_skipped = any(0 < step.index - start <= self.mlp_skip_count for start in starts)
        return Act.STAND_IN if is_skipped else Act.RUN

    def _mlp_starts(self, setting: Setting) -> set[int]:
        """The first step at or below each of the timesteps."""
        below = ([s.index for s in setting.steps if s.t <= t] for t in self.mlp_timesteps)
        return {indices[0] for indices in below if indices}
