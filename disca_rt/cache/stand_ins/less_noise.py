"""OmniCache's stand-in: the velocity kept last, less a band of the error that reuse has shown."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..options import check_number
from ..site import Level
from ..stand_in import Kept, Moment, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class LessNoise(StandInDefaults):
    """v_j − Π γ·band(e) at step s, the product over the steps from j, the last full one, to s − 1.

    e = v_j' − v_j is the error of reuse as seen at j, of the full step j' before it (choice), 0
    until there were two. `gamma` is what is left of it after each step: a number a step, as a
    calibration has them, or one for all (choice: 0.9). A band holds the frequencies of each frame
    within `cutoff` of the largest, or the others, by the plan's two scalars, which weigh them
    (OmniCache, arXiv 2508.16212, reconstructed: cutoff is a choice); low ones where a rule gives
    none.
    """

    takes = "bands"
    levels: ClassVar[tuple[Level, ...]] = ("velocity",)
    fitted_in: ClassVar[str] = "omnicache"
    fitted: ClassVar[tuple[str, ...]] = ("gamma",)
    gamma: tuple[float, ...] = (0.9,)
    cutoff: float = 0.25

    def __post_init__(self) -> None:
        if not self.gamma:
            raise ValueError("gamma must be one number, or one a step, got none")
        for each in self.gamma:
            check_number("gamma", each, 0, 1)
        check_number("cutoff", self.cutoff, 0, 1)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (like, like)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The weights of the low and the high band, and whether nothing is kept yet."""
        low, high = given[:2] or (1.0, 0.0)
        left = self._left(kept_at[-1], step) if len(kept_at) > 1 else 0.0
        return low * left, high * left, float(not kept_at)

    def _left(self, kept_at: int, step: int) -> float:
        """The share of the error that is left at `step`; ValueError for too few gammas."""
        if len(self.gamma) == 1:
            return self.gamma[0] ** (step - kept_at)
        if step > len(self.gamma):
            raise ValueError(f"gamma must be one number, or one a step, got {len(self.gamma)}")
        return math.prod(self.gamma[kept_at:step])

    def out(self, kept: Kept) -> Tensor | None:
        """None: the error needs the new value beside the old one."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        velocity, error = kept
        # What an earlier sample left is not to be read, were it NaN: no error of the first one.
        error.copy_(torch.where(at.numbers[2] > 0, torch.zeros_like(value), velocity - value))
        velocity.copy_(value)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        velocity, error = kept
        spectrum = torch.fft.rfft2(error)
        is_low = self._is_low(error.shape[-2:], error.device)
        weights = torch.where(is_low, at.numbers[0], at.numbers[1])
        return velocity - torch.fft.irfft2(spectrum * weights, s=error.shape[-2:])

    def _is_low(self, frame: torch.Size, device: torch.device) -> Tensor:
        """The frequencies `[H, W/2 + 1]` of a frame within the cutoff."""
        vertical = torch.fft.fftfreq(frame[0], device=device).abs() * 2
        horizontal = torch.fft.rfftfreq(frame[1], device=device) * 2
        return torch.maximum(vertical[:, None], horizontal[None]) <= self.cutoff
