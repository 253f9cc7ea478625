"""Result of a pipeline, and its refusals to be used."""

from dataclasses import dataclass

from torch import Tensor

from ..instruments.stopwatch import StageTime


class Busy(RuntimeError):
    """Refusal of a second sample, or of `close`, while a pipeline samples."""


class Closed(RuntimeError):
    """Refusal of any use of a pipeline after `close`."""


@dataclass(frozen=True)
class Sample:
    """Result: `latents [B, C, T, H, W]` fp32, `video [B, 3, T', H', W']` in [0, 1] or None.

    `times` says where the time went: prompts, conditioning, full steps, predicted steps, decode.
    """

    latents: Tensor
    video: Tensor | None
    times: dict[str, StageTime]
