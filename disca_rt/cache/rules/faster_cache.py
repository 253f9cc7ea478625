"""FasterCache's two lists: steps that compute attention, and steps that run the other pass.

Each pass's attention is computed where both passes run, so that only the conditional one's is ever
stood in for. Where there is one pass the first list is all that there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...schedule import Step
from ..labels import FULL, PREDICTED
from ..options import check_int
from ..plan import Act, Setting, StepPlan, kept_before_use
from ..rule import Planned

Range = tuple[float, ...]


class Open(NamedTuple):
    """The parts of a step that may be skipped, and the bands whose factors apply then."""

    attention: bool
    unconditional: bool
    low: bool
    high: bool


class _TwoLists(Planned):
    """A base: `opened(step, steps)` says what may be skipped in a step."""

    gives = "weights"

    def plans(self, setting: Setting) -> tuple[StepPlan, ...]:
        steps = len(setting.steps)
        opened = [self.opened(step, steps) for step in setting.steps]
        opened[0] = Open(False, False, False, False)  # nothing is kept before it
        guided = setting.passes == 2
        runs = [guided and not each.unconditional for each in opened]
        attends = [run or not each.attention for run, each in zip(runs, opened, strict=True)]
        of_attention = kept_before_use(attends, 2)
        of_guidance = kept_before_use(runs, 1) if guided else [Act.RUN] * steps
        factors = _factors(opened, runs)
        return tuple(
            StepPlan(
                ((attention, Act.RUN), (Act.RUN, guidance))[: setting.passes],
                FULL if attends[i] and runs[i] == guided else PREDICTED,
                given=(i / max(1, steps - 1), *factors[i]),
            )
            for i, (attention, guidance) in enumerate(zip(of_attention, of_guidance, strict=True))
        )


@dataclass(frozen=True)
class FasterCache(_TwoLists):
    """diffusers' lists, in windows of timesteps (hooks/faster_cache.py); both ends lie outside.

    Within its window attention is computed at every `spatial_attention_block_skip_range`-th step of
    the sample, and the unconditional pass at every `unconditional_batch_skip_range`-th. A band's
    factor applies in skipped steps of its own window.
    """

    spatial_attention_block_skip_range: int = 2
    spatial_attention_timestep_skip_range: Range = (-1, 681)
    unconditional_batch_skip_range: int = 5
    unconditional_batch_timestep_skip_range: Range = (-1, 641)
    low_frequency_weight_update_timestep_range: Range = (99, 901)
    high_frequency_weight_update_timestep_range: Range = (-1, 301)

    def __post_init__(self) -> None:
        for name in ("spatial_attention_block_skip_range", "unconditional_batch_skip_range"):
            check_int(name, getattr(self, name), 1)
        for name, value in vars(self).items():
            is_window = "_timestep_" in name
            if is_window and (not isinstance(value, tuple) or len(value) != 2):
                raise ValueError(f"{name} must be two timesteps such as -1,681, got {value}")

    def opened(self, step: Step, steps: int) -> Open:
        attention = step.index % self.spatial_attention_block_skip_range != 0
        unconditional = step.index % self.unconditional_batch_skip_range != 0
        return Open(
            attention and _within(step, self.spatial_attention_timestep_skip_range),
            unconditional and _within(step, self.unconditional_batch_timestep_skip_range),
            _within(step, self.low_frequency_weight_update_timestep_range),
            _within(step, self.high_frequency_weight_update_timestep_range),
        )


@dataclass(frozen=True)
class FasterCacheOf50(_TwoLists):
    """The authors' lists for CogVideoX, by number of a step of 50, counted from 1.

    From step `skips_from` on, attention is computed in steps that `attention_interval` divides, and
    the unconditional pass in those that `unconditional_interval` does. The low band's factor
    applies up to step `low_until`, the high one's from `high_from` on. With other numbers of steps
    the three bounds are moved in proportion (choice).
    """

    skips_from: int = 18
    attention_interval: int = 3
    unconditional_interval: int = 5
    low_until: int = 40
    high_from: int = 30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_int(name, value, 1)

    def opened(self, step: Step, steps: int) -> Open:
        number, of_50 = step.index + 1, (step.index + 1) * 50 / steps
        is_late = of_50 >= self.skips_from
        return Open(
            is_late and number % self.attention_interval != 0,
            is_late and number % self.unconditional_interval != 0,
            of_50 <= self.low_until,
            of_50 >= self.high_from,
        )


def _within(step: Step, window: Range) -> bool:
    return window[0] < step.t < window[1]


def _factors(opened: Sequence[Open], runs: Sequence[bool]) -> list[tuple[float, float]]:
    """The numbers of skipped steps, up to each, in which the low and the high factor applied."""
    found, low, high = [], 0.0, 0.0
    for each, run in zip(opened, runs, strict=True):
        low, high = (0.0, 0.0) if run else (low + each.low, high + each.high)
        found.append((low, high))
    return found
