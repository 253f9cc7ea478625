"""DBCache's rule (cache-dit 1.5.3): each kind of blocks is decided by its own first ones.

Its first Fn blocks always run. Where their residual on image rows is near that of the last step in
which the kind was computed, the blocks behind them are replaced, all but its last Bn ones. On
HunyuanVideo 1.0 double and single blocks are two caches, decided one after the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...config import DiTConfig
from ...schedule import Step
from ..options import check_int
from ..plan import Act, Answer, Ask, Measured, Probe, Seen, Setting, StepPlan, labelled
from ..ranges import middles
from ..rule import RuleDefaults


class Count(NamedTuple):
    """The history of one slot of one pass; `row` are the stand-ins in a row up to now."""

    has_kept: bool = False
    cached: int = 0
    row: int = 0
    total: float = 0.0  # of the changes that were compared with the threshold


Counts = tuple[tuple[Count, ...], ...]
"""The counts of each slot of each pass: `[pass][slot]`."""


@dataclass(frozen=True)
class DBCache(RuleDefaults):
    """Options as cache-dit has them, for each kind of blocks and each pass.

    A slot stands in where the change is below `residual_diff_threshold` (1 or more: always, 0 or
    less: never). It is computed at every `warmup_interval`-th of the first `max_warmup_steps`;
    after `max_cached_steps` or `max_continuous_cached_steps` stand-ins (-1: no bound); and once
    the changes that were compared with the threshold, those of other steps left out, have added up
    to `max_accumulated_residual_diff_threshold`. `steps_computation_mask` has a 1 where all is
    computed, and takes the place of the warm-up; `steps_computation_policy` "static": elsewhere
    stand-ins, without a look; "dynamic": by the threshold. The unconditional pass decides for
    itself, unless `cfg_diff_compute_separate` is false.
    """

    config: DiTConfig
    Fn_compute_blocks: int | None = None
    Bn_compute_blocks: int = 0
    residual_diff_threshold: float = 0.08
    max_warmup_steps: int = 8
    warmup_interval: int = 1
    max_cached_steps: int = -1
    max_continuous_cached_steps: int = -1
    max_accumulated_residual_diff_threshold: float | None = None
    steps_computation_mask: tuple[int, ...] | None = None
    steps_computation_policy: Literal["dynamic", "static"] = "dynamic"
    cfg_diff_compute_separate: bool = True

    def __post_init__(self) -> None:
        if self.Fn_compute_blocks is not None:
            check_int("Fn_compute_blocks", self.Fn_compute_blocks, 1)
        for name, least in (
            ("Bn_compute_blocks", 0),
            ("max_warmup_steps", 0),
            ("warmup_interval", 1),
            ("max_cached_steps", -1),
            ("max_continuous_cached_steps", -1),
        ):
            check_int(name, getattr(self, name), least)
        if math.isnan(self.residual_diff_threshold):
            raise ValueError("residual_diff_threshold must be a number, got nan")
        if self.steps_computation_policy not in ("dynamic", "static"):
            raise ValueError(
                "steps_computation_policy must be dynamic or static, got "
                f"{self.steps_computation_policy!r}"
            )
        mask = self.steps_computation_mask
        if mask is not None and (not mask or mask[0] != 1 or not {*mask} <= {0, 1}):
            raise ValueError(
                "steps_computation_mask must be ones and zeros, of steps from the first one on, "
                f"and begin with 1 (nothing is cached before), got {list(mask)}"
            )

    @property
    def probes(self) -> tuple[Probe, ...]:
        if self._is_static or not 0 < self.residual_diff_threshold < 1:
            return ()
        parts = middles(self.config, self.Fn_compute_blocks, self.Bn_compute_blocks)
        return tuple(
            Probe(
                "residual",
                "kept",
                which_pass=which_pass,
                since=kind.begin,
                after=kind.start,
                kept_by=slot,
            )
            for which_pass in range(2)
            for slot, kind in enumerate(parts)
        )

    def start(self, setting: Setting) -> Counts:
        return (((Count(),) * setting.slots),) * setting.passes

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Counts) -> Answer:
        passes: list[tuple[Act, ...]] = []
        for number in range(setting.passes):
            if number and not self.cfg_diff_compute_separate:
                passes.append(passes[0])
                continue
            acts: tuple[Act, ...] = ()
            for slot, count in enumerate(memory[number]):
                act = self._act(step.index, count, seen, number, slot)
                if isinstance(act, Probe):
                    return Ask(act, _under(setting, passes, acts))
                acts = (*acts, act)
            passes.append(acts)
        return labelled(tuple(passes))

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Counts
    ) -> Counts:
        return tuple(
            tuple(
                _counted(count, act, self._compared(step.index, count, seen, number, slot))
                for slot, (count, act) in enumerate(zip(counts, acts, strict=True))
            )
            for number, (counts, acts) in enumerate(zip(memory, plan.passes, strict=True))
        )

    def _compared(
        self, step: int, count: Count, seen: Seen, number: int, slot: int
    ) -> Measured | None:
        """The change that was compared with the threshold; None where nothing was."""
        if self._is_forced(step) or self._is_spent(count):
            return None
        return seen.get(self._probe(number, slot))

    def _act(self, step: int, count: Count, seen: Seen, number: int, slot: int) -> Act | Probe:
        """The act of a slot, or the probe that must be seen first."""
        if not count.has_kept or self._is_forced(step):
            return Act.KEEP
        if self._is_static:
            return Act.STAND_IN
        if self._is_spent(count) or self.residual_diff_threshold <= 0:
            return Act.KEEP
        if self.residual_diff_threshold >= 1:
            return Act.STAND_IN
        probe = self._probe(number, slot)
        if probe not in seen:
            return probe
        is_small = seen[probe].ratio < self.residual_diff_threshold  # not where it is NaN
        return Act.STAND_IN if is_small else Act.KEEP

    @property
    def _is_static(self) -> bool:
        return self.steps_computation_mask is not None and self.steps_computation_policy == "static"

    def _is_forced(self, step: int) -> bool:
        mask = self.steps_computation_mask
        if mask is not None:
            return step < len(mask) and mask[step] == 1
        return step in range(0, self.max_warmup_steps, self.warmup_interval)

    def _is_spent(self, count: Count) -> bool:
        """True where a bound says that this slot is computed now."""
        bound = self.max_accumulated_residual_diff_threshold or math.inf
        return (
            0 <= self.max_cached_steps <= count.cached
            or 0 <= self.max_continuous_cached_steps <= count.row
            or count.total >= (bound if bound > 0 else math.inf)
        )

    def _probe(self, number: int, slot: int) -> Probe | None:
        number = number if self.cfg_diff_compute_separate else 0
        found = (each for each in self.probes if (each.which_pass, each.kept_by) == (number, slot))
        return next(found, None)


def _under(
    setting: Setting, passes: Sequence[tuple[Act, ...]], acts: tuple[Act, ...]
) -> StepPlan | None:
    """The plan before a probe: of whole `passes`, and of the next one's first slots, `acts`."""
    if not acts:
        return None
    runs = (Act.RUN,) * setting.slots
    begun = (*passes, (*acts, *runs[len(acts) :]))
    return StepPlan((*begun, *(runs,) * (setting.passes - len(begun))))


def _counted(count: Count, act: Act, seen: Measured | None) -> Count:
    """The history after a step; a change that was compared counts, whatever came of it."""
    total = count.total
    if seen is not None and seen.ratio > 0:
        total += seen.ratio
    if act == Act.STAND_IN:
        return Count(True, count.cached + 1, count.row + 1, total)
    return Count(True, count.cached, 0, total)
