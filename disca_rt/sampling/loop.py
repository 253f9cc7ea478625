"""The only denoising loop: at every step the rule plans, the sampler computes, the latents move on.

It knows neither checkpoints nor prompts nor files. What a rule remembers are frozen values that
move on once a step is over, so that a draft that is given up leaves no trace.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache.plan import Setting, StepPlan
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import Stopwatch
from ..models.prepared import Prepared
from ..schedule import Step
from .ahead import Ahead
from .deciding import Deciding, Moved
from .guidance import StepTable, scaled
from .passes import Begun
from .sampler import Sampler
from .state import known_numbers, nothing_kept, numbers
from .step_tensors import Outcome, StepTensors


class Cancelled(RuntimeError):
    """A sample was cancelled between two steps."""


class Turn(NamedTuple):
    """The place of a sample among `samples` of a batch that are run one after the other."""

    sample: int = 0
    samples: int = 1


ALONE = Turn()  # of a sample, or a batch, that is run at once


class StepEvent(NamedTuple):
    """The argument of a callback after each step; `latents` are live: clone to keep them.

    Where the samples of a batch are run one after the other, each has all `steps`, and the latents
    are of sample number `turn.sample` alone.
    """

    step: Step
    steps: int
    plan: StepPlan
    latents: Tensor
    turn: Turn = ALONE

    @property
    def kind(self) -> str:
        """The label of the step's plan, such as "full" or "predicted"."""
        return self.plan.label

    @property
    def done(self) -> int:
        """The steps that have ended, those of samples before this one included."""
        return self.turn.sample * self.steps + self.step.index + 1

    @property
    def total(self) -> int:
        """The steps of all samples that are run one after the other."""
        return self.turn.samples * self.steps


class Loop:
    """The steps of one sample. `prepared` are the conditionings of its passes."""

    def __init__(
        self,
        sampler: Sampler,
        setting: Setting,
        table: StepTable,
        prepared: Sequence[Prepared],
        graphs: GraphRunner | None,
    ) -> None:
        self.sampler, self.policy, self.rule = sampler, sampler.policy, sampler.policy.rule
        self.sharding, self._mark = sampler.forward.sharding, sampler.mark
        self.setting, self.table = setting, table
        # Decisions of every block have more outcomes than a runner keeps captures.
        is_captured = all(probe.of != "score" for probe in self.rule.probes)
        self._prepared, self._graphs = tuple(prepared), graphs if is_captured else None
        self._device = table.dt.device
        self._ahead = Ahead(sampler.forward.dit, table, self._prepared)
        self._key = sampler.key()
        self.plans = self.policy.known_plans(setting)
        self._rows = None if self.plans is None else self._known_numbers(self.plans)

    def run(
        self,
        latents: Tensor,
        stopwatch: Stopwatch,
        on_step: Callable[[StepEvent], None] | None,
        cancel: threading.Event | None,
        turn: Turn = ALONE,
    ) -> Tensor:
        """The clean latents. Raises `Cancelled` when `cancel` is set between steps.

        With graphs the steps are captured and replayed, and where nobody looks in between and all
        plans are known, the whole trajectory is.
        """
        is_watched = on_step is not None or cancel is not None or self.sharding.size > 1
        if self._graphs is not None and self.plans is not None and not is_watched:
            return self._trajectory(self._graphs, self.plans, latents, stopwatch)
        passes = len(self._prepared)
        moved = Moved(self.rule.start(self.setting), nothing_kept(self.policy, passes), Counter())
        steps = len(self.setting.steps)
        for step in self.setting.steps:
            if cancel is not None and cancel.is_set():
                of_sample = f", sample {turn.sample} of {turn.samples}" * (turn.samples > 1)
                raise Cancelled(f"cancelled before step {step.index} of {steps}{of_sample}")
            started = stopwatch.start()
            with self._mark(f"step {step.index}"):
                plan, latents, moved = self._step(step, latents, moved)
            stopwatch.stop(f"{plan.label} steps", started)
            if on_step is not None:
                on_step(StepEvent(step, steps, plan, latents, turn))
        return latents if self._graphs is None else latents.clone()

    def _trajectory(
        self,
        graphs: GraphRunner,
        plans: tuple[StepPlan, ...],
        latents: Tensor,
        stopwatch: Stopwatch,
    ) -> Tensor:
        started = stopwatch.start()
        latents = graphs.run(
            ("trajectory", plans, self._key),
            partial(self.sampler.trajectory, plans),
            latents,
            scaled(self.table, [plan.scale for plan in plans]),
            self._rows,
            bound=self._prepared,
            depends_on=self.sampler.depends_on,
        )
        stopwatch.stop(f"{len(plans)} steps", started)
        return latents.clone()  # its memory is the next sample's

    def _step(self, step: Step, latents: Tensor, moved: Moved) -> tuple[StepPlan, Tensor, Moved]:
        """The plan of a step, the latents after it, and what moves on."""
        row = self._ahead.row(step.index)
        if self.plans is None:
            return Deciding(self, step, StepTensors(latents, row, None), moved).run()
        plan, numbers = (
            self.plans[step.index],
            None if self._rows is None else self._rows[step.index],
        )
        row = row if plan.scale == 1 else row.scaled(plan.scale)
        latents = self.compute(plan, {}, StepTensors(latents, row, numbers)).latents
        return plan, latents, moved  # nothing that moves on is asked for again

    def compute(self, plan: StepPlan, begun: dict[int, Begun], tensors: StepTensors) -> Outcome:
        """A step by `plan`, captured where there are graphs; `begun` are passes under way."""
        key = plan.passes, plan.watch, tuple(sorted(begun)) if begun else ()
        return self.piece(key, partial(self.sampler.run, plan), begun, tensors)

    def tensors(self, index: int, latents: Tensor, kept_at: tuple[int, ...]) -> StepTensors:
        """The inputs of step number `index` alone, as if every slot was kept at `kept_at`."""
        of_slots = (kept_at,) * len(self.policy.slots)
        moved = Moved(None, (of_slots,) * len(self._prepared), Counter())
        return StepTensors(latents, self._ahead.row(index), self.numbers(index, moved, None))

    def piece(self, key: Any, compute: Callable[..., Any], *inputs: Any) -> Any:
        """A piece of a step, captured where there are graphs."""
        if self._graphs is None:
            return compute(*inputs, self._prepared)
        return self._graphs.run(
            (key, self._key),
            compute,
            *inputs,
            bound=self._prepared,
            depends_on=self.sampler.depends_on,
        )

    def _known_numbers(self, plans: tuple[StepPlan, ...]) -> Tensor | None:
        """The slots' scalars of every step, on the device before the first one."""
        rows = known_numbers(self.policy, plans)
        if not rows[0]:
            return None
        return torch.tensor(rows, dtype=torch.float32, device=self._device)

    def numbers(self, index: int, moved: Moved, plan: StepPlan | None) -> Tensor | None:
        """The slots' scalars of step number `index`, on the device; None where there are none."""
        row = numbers(self.policy, moved.kept_at, index, plan)
        return torch.tensor(row, dtype=torch.float32, device=self._device) if row else None
