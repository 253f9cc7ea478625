"""Block Caching's rule (arXiv 2312.03209): each block by a table from its curve of changes."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ...schedule import Step
from ..options import check_number
from ..plan import Act, Seen, Setting, StepPlan, labelled

Table = tuple[tuple[bool, ...], ...]
"""By step and block: True where it is computed."""


@dataclass(frozen=True)
class RefreshTable:
    """A block is computed where its changes since it last was would add up to more than `delta`.

    `curves` are the relative changes |C_s − C_(s−1)|₁/|C_s|₁ of each block's residual C from the
    step before, block by block for every step s (those of the first are not read), as a
    calibration measures them; those of the conditional pass are for both (choice).
    """

    fitted_in: ClassVar[str] = "block-caching"
    curves: tuple[float, ...]
    delta: float = 0.2
    probes = ()

    def __post_init__(self) -> None:
        check_number("delta", self.delta, 0)
        if not all(change >= 0 for change in self.curves):
            raise ValueError("curves must be numbers of at least 0")

    def start(self, setting: Setting) -> Table:
        steps, blocks = len(setting.steps), setting.slots
        if len(self.curves) != steps * blocks:
            raise ValueError(
                f"curves must be a number for each of {blocks} blocks in each of {steps} steps, "
                f"{steps * blocks} in all, got {len(self.curves)}"
            )
        rows = [self.curves[step * blocks : (step + 1) * blocks] for step in range(steps)]
        since = [math.inf] * blocks
        table = []
        for row in rows:
            since = [total + change for total, change in zip(since, row, strict=True)]
            table.append(tuple(total > self.delta or total == math.inf for total in since))
            since = [0.0 if now else total for total, now in zip(since, table[-1], strict=True)]
        return tuple(table)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Table) -> StepPlan:
        acts = tuple(Act.KEEP if now else Act.STAND_IN for now in memory[step.index])
        return labelled((acts,) * setting.passes)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Table
    ) -> Table:
        return memory
