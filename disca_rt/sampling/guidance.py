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

    @property
    def steps(self) -> int:
        return len(self.dt)

    def inputs(self, first: int, count: int = 1) -> StepInputs:
        """The model's scalars of `count` steps from number `first` on, as samples of one batch."""
        stop = first + count
        r = self.timesteps[first + 1 : stop + 1].flatten() if self.has_r else None
        guidance = None if self.guidance is None else self.guidance.repeat(count)
        return StepInputs(self.timesteps[first:stop].flatten(), r, guidance)


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
