"""The policy of a recording: every step full, everything watched. Built over the seam of caches.

Its rule hands on what the probes saw; two stand-ins, which never stand in, take rows of what is
computed at their sites.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..cache.labels import FULL
from ..cache.plan import Act, Probe, Seen, Setting, StepPlan
from ..cache.rule import RuleDefaults
from ..cache.site import Level
from ..cache.stand_in import Kept, Moment, StandInDefaults, TensorSpec
from ..schedule import Step


@dataclass(frozen=True)
class Recording(RuleDefaults):
    """Computes and keeps everything, and adds each step's measurements to `seen`.

    Slots numbered in `first_pass_only` keep in the conditional pass alone.
    """

    probes: tuple[Probe, ...]
    first_pass_only: tuple[int, ...] = ()
    seen: list[dict] = field(default_factory=list, compare=False)

    def start(self, setting: Setting) -> None:
        self.seen.clear()

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        first = (Act.KEEP,) * setting.slots
        others = tuple(
            Act.RUN if slot in self.first_pass_only else Act.KEEP for slot in range(setting.slots)
        )
        return StepPlan((first, *(others,) * (setting.passes - 1)), FULL, self.probes)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: None
    ) -> None:
        self.seen.append(dict(seen))


def sampled_rows(context, places: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The numbers, among `places` and among this rank's rows, of the image rows that it has."""
    start, stop = context.layout.start, context.layout.start + context.layout.img_len
    mine = [i for i, place in enumerate(places) if start <= place < stop]
    return mine, [places[i] - start for i in mine]


@dataclass(frozen=True)
class Sampled(StandInDefaults):
    """Takes the image rows at `places` of what enters and of what is computed, at every step.

    `taken` gets pairs `[2, B, places, C]` fp32, zeros for rows of other ranks.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)
    places: tuple[int, ...]
    taken: list[Tensor] = field(default_factory=list, compare=False)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return ()

    def out(self, kept: Kept) -> Tensor | None:
        """None: nothing is kept on the device."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        self.taken.append(_rows(value, at, self.places))

    def value(self, kept: Kept, at: Moment) -> Tensor:
        raise AssertionError("a recording computes every step")


@dataclass(frozen=True)
class Regressed(Sampled):
    """Adds up the normal equations of a block's output over its input, of rows at `places`.

    `taken` gets one tensor `[2C + 1, C + 1]` fp64: the product of inputs, with a one beside them,
    with themselves, and below it that of outputs with inputs.
    """

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        outputs, inputs = self.rows(value, at).double().flatten(1, 2)
        is_mine = inputs.any(dim=1, keepdim=True).double()  # rows of other ranks are zeros
        inputs = torch.cat([inputs, is_mine], dim=1)
        sums = torch.cat([inputs.T @ inputs, outputs.T @ inputs]).cpu()
        self.taken[:] = [self.taken[0] + sums if self.taken else sums]

    def rows(self, value: Tensor, at: Moment) -> Tensor:
        """Pairs of outputs and inputs `[2, B, rows, C]` fp32."""
        return _rows(value, at, self.places)


@dataclass(frozen=True)
class RegressedJoint(Regressed):
    """The same with all text rows of a sample: its batch is one, so that none is padding."""

    def rows(self, value: Tensor, at: Moment) -> Tensor:
        img = at.context.layout.img_len
        text = torch.stack([value[:, img:], at.entering[:, img:]]).float()
        return torch.cat([super().rows(value, at), text], dim=2)


def _rows(value: Tensor, at: Moment, places: tuple[int, ...]) -> Tensor:
    mine, rows = sampled_rows(at.context, places)
    both = torch.stack([value[:, rows], at.entering[:, rows]]).float()
    taken = both.new_zeros(2, len(value), len(places), value.shape[2])
    taken[:, :, mine] = both
    return taken
