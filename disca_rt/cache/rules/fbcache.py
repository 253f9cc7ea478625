"""The first-block cache (diffusers 0.42.1, `hooks/first_block_cache.py`): one block decides.

The first block always runs. Where its residual on image rows is near that of the last step that
was computed, all blocks behind it are replaced.
"""

from dataclasses import dataclass

from ...schedule import Step
from ..options import check_number
from ..plan import Act, Answer, Ask, Probe, Seen, Setting, labelled
from ..rule import Memoryless

PROBES = tuple(Probe("residual", "kept", after=1, which_pass=i, kept_by=0) for i in range(2))


@dataclass(frozen=True)
class FirstBlock(Memoryless):
    """Stands in where mean|p − p′|/mean|p′| ≤ `threshold`, p′ of the last full step.

    As in diffusers' contexts the unconditional pass decides for itself; the conditional one decides
    for both where `per_pass` is false.
    """

    threshold: float = 0.05  # diffusers' default
    per_pass: bool = True
    probes = PROBES

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> Answer:
        passes = []
        for probe in PROBES[: setting.passes if self.per_pass else 1]:
            if probe not in seen:
                return Ask(probe)
            is_small = seen[probe].ratio <= self.threshold  # not where it is NaN: nothing is kept
            passes.append((Act.STAND_IN if is_small else Act.KEEP,) * setting.slots)
        return labelled(tuple(passes[min(i, len(passes) - 1)] for i in range(setting.passes)))
