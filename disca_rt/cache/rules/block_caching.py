"""Block Caching's rules (arXiv 2312.03209): each block by a table from its curve of changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ...config import DiTConfig
from ...schedule import Step
from ..adjustment_file import read_adjustment
from ..learned_file import check_steps
from ..options import File, check_number
from ..plan import Act, Seen, Setting, StepPlan, labelled
from ..rule import Memoryless, RuleDefaults

Table = tuple[tuple[bool, ...], ...]
"""Blocks that are computed: `[step][block]`, True where one is."""


@dataclass(frozen=True)
class RefreshTable(RuleDefaults):
    """A block is computed where its changes since it last was would add up to more than `delta`.

    `curves` are the relative changes |C_s − C_(s−1)|₁/|C_s|₁ of each block's residual C from the
    step before, block by block for every step s (those of the first are not read), as a
    calibration measures them; those of the conditional pass are for both (choice).
    """

    fitted_in: ClassVar[str] = "block-caching"
    fitted: ClassVar[tuple[str, ...]] = ("curves",)
    curves: tuple[float, ...]
    delta: float = 0.2
    probes = ()

    def __post_init__(self) -> None:
        check_number("delta", self.delta, 0)
        if not all(change >= 0 for change in self.curves):
            raise ValueError("curves must be numbers of at least 0")

    def start(self, setting: Setting) -> Table:
        return table_of(self.curves, self.delta, len(setting.steps), setting.slots)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Table) -> StepPlan:
        return _plan(setting, memory[step.index])

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Table
    ) -> Table:
        return memory


@dataclass(frozen=True)
class TrainedTable(Memoryless):
    """A block is computed where the table in the file `scale_shift` says so.

    It is the table of the curves and the delta for which the file's scales and shifts were trained.
    """

    config: DiTConfig
    scale_shift: File
    digest: str = field(init=False, default="")
    _table: Table = field(init=False, default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        file = read_adjustment(self.scale_shift, self.config)
        object.__setattr__(self, "digest", file.digest)
        object.__setattr__(self, "_table", file.computed)

    def start(self, setting: Setting) -> None:
        check_steps(self.scale_shift, len(self._table), len(setting.steps))

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        return _plan(setting, self._table[step.index])


def table_of(curves: Sequence[float], delta: float, steps: int, blocks: int) -> Table:
    """The table of `curves`; ValueError where they are not of so many steps and blocks."""
    if len(curves) != steps * blocks:
        raise ValueError(
            f"curves must be a number for each of {blocks} blocks in each of {steps} steps, "
            f"{steps * blocks} in all, got {len(curves)}"
        )
    rows = [curves[step * blocks : (step + 1) * blocks] for step in range(steps)]
    since = [math.inf] * blocks
    table = []
    for row in rows:
        since = [total + change for total, change in zip(since, row, strict=True)]
        table.append(tuple(total > delta or total == math.inf for total in since))
        since = [0.0 if now else total for total, now in zip(since, table[-1], strict=True)]
    return tuple(table)


def _plan(setting: Setting, computed: tuple[bool, ...]) -> StepPlan:
    acts = tuple(Act.KEEP if now else Act.STAND_IN for now in computed)
    return labelled((acts,) * setting.passes)
