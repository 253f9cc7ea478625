"""Guidance of a sample, and the scalars that the model is fed at each step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.dit import DiT, StepInputs
from ..schedule import Schedule

DEFAULT_GUIDANCE = 6.0  # the official pipelines' scale, embedded and classifier-free


class Guidance(NamedTuple):
    """`embedded`: scale fed through `guidance_in`; `classifier_free`: scale mixing two passes."""

    embedded: float | None = None
    classifier_free: float | None = None


class StepRow(NamedTuple):
    """The scalars of one step: the model's, and fp32 `dt []`, its length, negative.

    `sigma_next []` fp32 is the noise level after it, where something is held at it.
    """

    inputs: StepInputs
    times: tuple[Tensor, ...]

    @property
    def dt(self) -> Tensor:
        return self.times[0]

    @property
    def sigma_next(self) -> Tensor:
        return self.times[1]

    def scaled(self, scale: float) -> "StepRow":
        """The same of a step in which the velocity counts `scale` times."""
        return self._replace(times=(self.dt * scale, *self.times[1:]))


class StepTable(NamedTuple):
    """The scalars of every step, on the device before the first one: no step waits for the host.

    `timesteps [steps + 1, B]`, `dt [steps]`, and `sigma_next [steps]` or None, fp32; `guidance [B]`
    or None.
    """

    timesteps: Tensor
    dt: Tensor
    sigma_next: Tensor | None
    has_r: bool
    guidance: Tensor | None

    def row(self, index: int) -> StepRow:
        """The scalars of step number `index`."""
        r = self.timesteps[index + 1] if self.has_r else None
        inputs = StepInputs(self.timesteps[index], r, self.guidance)
        if self.sigma_next is None:
            return StepRow(inputs, (self.dt[index],))
        return StepRow(inputs, (self.dt[index], self.sigma_next[index]))


def scaled(table: StepTable, scales: Sequence[float]) -> StepTable:
    """The same of steps in which the velocity counts so many times."""
    if all(scale == 1 for scale in scales):
        return table
    factors = torch.tensor(scales, dtype=torch.float32, device=table.dt.device)
    return table._replace(dt=table.dt * factors)


def step_table(
    schedule: Schedule, guidance: Guidance, batch: int, dit: DiT, is_edit: bool = False
) -> StepTable:
    """The table of a sample of `batch` rows, with the levels that an edit is held at."""
    steps = list(schedule)
    timesteps = [step.t for step in steps] + [steps[-1].r]
    on_device = torch.tensor(timesteps, dtype=torch.float32, device=dit.device)
    lengths = [step.sigma_next - step.sigma for step in steps]
    ends = [step.sigma_next for step in steps] if is_edit else None
    return StepTable(
        on_device[:, None].expand(-1, batch),
        torch.tensor(lengths, dtype=torch.float32, device=dit.device),
        None if ends is None else torch.tensor(ends, dtype=torch.float32, device=dit.device),
        dit.config.meanflow,
        _guidance_input(guidance.embedded, batch, dit),
    )


def _guidance_input(scale: float | None, batch: int, dit: DiT) -> Tensor | None:
    if scale is None:
        return None
    # Cast, then times 1000: 6.0 becomes 6016 in bf16, which is what the models were trained with.
    return torch.full((batch,), scale, dtype=dit.dtype, device=dit.device) * 1000
