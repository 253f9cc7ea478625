"""TeaCache's rule: full once the estimated changes of the output have added up to a threshold."""

from dataclasses import dataclass
from typing import ClassVar

from ...schedule import Step
from ..options import check_number
from ..plan import Answer, Ask, Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults

PUBLISHED = 733.226126, -401.131952, 67.5869174, -3.14987800, 0.0961237896


@dataclass(frozen=True)
class TeaCache(RuleDefaults):
    """Adds up p(z); full where the sum reaches `rel_l1_thresh`, and it begins anew at 0.

    z = mean|m − m'| / mean|m'| of the first block's modulated input m and that of the step before,
    image rows (TeaCache, arXiv 2411.19108, eq. 4 to 6, and the authors' code for HunyuanVideo).
    The first and the last step are full in any case. p has the `coefficients`, highest power first:
    those of a calibration, or else those published for HunyuanVideo 1.0 with 50 steps. For other
    models, HunyuanVideo 1.5 among them, none are published; the same ones are taken there (choice).

    With classifier-free guidance the conditional pass decides for both (choice); with `per_pass`
    each decides for itself, as in the authors' code for Wan.
    """

    fitted_in: ClassVar[str] = "teacache"
    fitted: ClassVar[tuple[str, ...]] = ("coefficients",)
    rel_l1_thresh: float = 0.15
    coefficients: tuple[float, ...] = PUBLISHED
    per_pass: bool = False

    def __post_init__(self) -> None:
        check_number("rel_l1_thresh", self.rel_l1_thresh, 0)
        if not self.coefficients:
            raise ValueError("coefficients must be at least one number, highest power first")

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(Probe("modulated", which_pass=i) for i in range(1 + self.per_pass))

    def start(self, setting: Setting) -> tuple[float, ...]:
        """The sums of the deciding passes."""
        return (0.0,) * min(len(self.probes), setting.passes)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: tuple[float, ...]) -> Answer:
        if step.index == len(setting.steps) - 1:
            return setting.full
        for probe in self.probes[: len(memory)]:
            if probe not in seen:
                return Ask(probe)
        computes = [
            step.index == 0 or not each < self.rel_l1_thresh  # NaN: full
            for each in self._sums(seen, memory)
        ]
        return setting.by_pass(computes * (setting.passes // len(computes)))

    def remember(
        self,
        setting: Setting,
        step: Step,
        plan: StepPlan,
        seen: Seen,
        memory: tuple[float, ...],
    ) -> tuple[float, ...]:
        if step.index in (0, len(setting.steps) - 1):
            return self.start(setting)
        return tuple(
            each if each < self.rel_l1_thresh else 0.0 for each in self._sums(seen, memory)
        )

    def _sums(self, seen: Seen, memory: tuple[float, ...]) -> list[float]:
        """The sums with this step's change."""
        return [
            total + self.estimate(seen[probe].ratio)
            for total, probe in zip(memory, self.probes, strict=False)
        ]

    def estimate(self, change: float) -> float:
        """p(z), the relative change of the model's output that a change z of its input means."""
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return value
