"""SpeCa (arXiv 2509.11628): forecasts are drafts, and a look at the last block says if they hold.

The block is computed from what the draft enters it with, and its error is how far the forecast of
its branches is from what it computes: of branches of all valid rows, padding left out.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...schedule import Step
from ..labels import PREDICTED
from ..options import check_int
from ..plan import Act, Answer, Draft, Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults

MODES = "next", "rollback"
METRICS = {"relative_l1": "relative", "relative_l2": "relative_squares", "norm": "l2_of_now"}
"""The norms that errors are made of."""


class Drafts(NamedTuple):
    """The number of drafts since the last full step, and the last one's error where it is known."""

    count: int = 0
    error: float | None = None
    last_was_full: bool = False


@dataclass(frozen=True)
class SpeCa(RuleDefaults):
    """After a full step at least `min_taylor_steps` drafts and at most `max_taylor_steps`.

    A draft is refused where its error is above `base_threshold`·`decay_rate`^(step / steps), or
    `min_threshold` where that is larger. In `mode` "next" (the authors' code) the step after it is
    full then, in "rollback" (the paper) the step itself is computed again. `first_enhance`: steps
    below it are full; in mode "next" one after a full one never is, so that of 3 the second is
    drafted (code). `error_metric`: "relative_l1", mean(|pred - true| / (|true| + 1e-8)) (code),
    "relative_l2", the root of the mean of squares of these, or "norm", |pred - true|₂ / |true|₂
    (paper). The first slot is checked, in the conditional pass, and only where the error is used;
    a policy of one slot is computed whole for its check.
    """

    base_threshold: float = 1.0
    decay_rate: float = 0.1
    min_threshold: float = 0.1
    min_taylor_steps: int = 4
    max_taylor_steps: int = 12
    first_enhance: int = 1
    error_metric: Literal["relative_l1", "relative_l2", "norm"] = "relative_l1"
    mode: Literal["next", "rollback"] = "next"

    def __post_init__(self) -> None:
        for name in ("min_taylor_steps", "max_taylor_steps", "first_enhance"):
            check_int(name, getattr(self, name), 1)
        for name in ("base_threshold", "decay_rate", "min_threshold"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name, known in (("mode", MODES), ("error_metric", tuple(METRICS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {[*known]}, got {getattr(self, name)!r}")

    @property
    def probes(self) -> tuple[Probe, ...]:
        return (Probe("slot", "stand-in", norm=METRICS[self.error_metric]),)

    def start(self, setting: Setting) -> Drafts:
        return Drafts()

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Drafts) -> Answer:
        if self._is_full(setting, step, memory):
            return setting.full
        draft = self._draft(setting, step, memory)
        if self.mode == "next" or not draft.watch:
            return draft
        if not seen:
            return Draft(draft)
        error = self._error(seen)
        return setting.full if error > self._threshold(setting, step) else draft

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Drafts
    ) -> Drafts:
        if plan.keeps():
            return Drafts(last_was_full=True)
        return Drafts(memory.count + 1, self._error(seen) if plan.watch else None)

    def _is_full(self, setting: Setting, step: Step, memory: Drafts) -> bool:
        """True where the step is full whatever a draft of it were."""
        is_early = step.index < self.first_enhance
        if memory.last_was_full:
            return is_early and self.mode == "rollback"
        if is_early or memory.count >= self.max_taylor_steps:
            return True
        is_judged = self.mode == "next" and memory.error is not None
        return is_judged and memory.error > self._threshold(setting, step)

    def _draft(self, setting: Setting, step: Step, memory: Drafts) -> StepPlan:
        """The plan of a draft, with its check where the error will be used."""
        draft = memory.count + 1
        is_used = self.min_taylor_steps <= draft
        if self.mode == "next":
            is_last = step.index == len(setting.steps) - 1
            is_used = is_used and draft < self.max_taylor_steps and not is_last
        if not is_used:
            return setting.predicted
        checked = (Act.CHECK,) + (Act.STAND_IN,) * (setting.slots - 1)
        others = ((Act.STAND_IN,) * setting.slots,) * (setting.passes - 1)
        return StepPlan((checked, *others), PREDICTED, self.probes)

    def _error(self, seen: Seen) -> float:
        ratio = seen[self.probes[0]].ratio
        return ratio if self.error_metric == "relative_l1" else math.sqrt(ratio)

    def _threshold(self, setting: Setting, step: Step) -> float:
        progress = step.index / len(setting.steps)
        return max(self.base_threshold * self.decay_rate**progress, self.min_threshold)
