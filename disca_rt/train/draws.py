"""Random numbers of training steps, drawn from (seed, position of a sample, batch size) alone.

So they are the same on any number of ranks, in any micro-batch and after any interruption.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..seeds import generator

_UNIFORMS = 5


class Draws(NamedTuple):
    """Random numbers of a batch: uniforms `[B]` in [0, 1), and `noise` like its latents.

    `time` becomes t, `interval` t − r = R·interval, `guidance` the scale, `gap` the predictor's
    Δ, and `drop` decides whether the conditioning is left out.

    `time` is stratified: over the samples of one step, each B-th of [0, 1) is drawn from once, in
    an order of the step's own. That keeps the mixture of noise levels, and with it the loss, from
    changing between steps.
    """

    time: Tensor
    interval: Tensor
    guidance: Tensor
    gap: Tensor
    drop: Tensor
    noise: Tensor

    def to(self, device: torch.device | str) -> "Draws":
        return Draws(*(tensor.to(device) for tensor in self))


def draw(seed: int, positions: Sequence[int], shape: Sequence[int], strata: int) -> Draws:
    """Draw for the samples at `positions`, whose latents are of `shape` (C, T, H, W).

    `strata` is the number of samples of a step, over all ranks.
    """
    rows = [_draw_one(seed, position, shape) for position in positions]
    uniforms = torch.stack([uniform for uniform, _ in rows])
    steps = (divmod(position, strata) for position in positions)
    places = torch.tensor([_strata(seed, step, strata)[place] for step, place in steps])
    time, *others = uniforms.unbind(1)
    return Draws((places + time) / strata, *others, torch.stack([noise for _, noise in rows]))


def _draw_one(seed: int, position: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    numbers = generator("draws", seed, position)
    return torch.rand(_UNIFORMS, generator=numbers), torch.randn(shape, generator=numbers)


@lru_cache(maxsize=2)
def _strata(seed: int, step: int, strata: int) -> tuple[int, ...]:
    """Give each sample of a step its own of the equal parts of [0, 1), by number, at random."""
    return tuple(torch.randperm(strata, generator=generator("strata", seed, step)).tolist())
