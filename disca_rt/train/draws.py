"""The random numbers of a step, each drawn from (seed, position of its sample) alone.

So they are the same on any number of ranks, in any micro-batch and after any interruption.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_UNIFORMS = 5
_MIX = 0x9E3779B97F4A7C15  # spreads seeds, so that (seed, position) and (seed + 1, ...) do not meet


class Draws(NamedTuple):
    """Per sample of a batch: uniforms `[B]` in [0, 1) and `noise`, like the latents.

    `time` is stratified: over the samples of one step, each B-th of [0, 1) is drawn from once. That
    keeps the mixture of noise levels, and with it the loss, from changing between steps.
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
    """The draws of samples at `positions` with latents of `shape` (C, T, H, W).

    `strata` is the number of samples of a step, over all ranks.
    """
    rows = [_draw_one(seed, position, shape) for position in positions]
    uniforms = torch.stack([uniform for uniform, _ in rows])
    places = torch.tensor([position % strata for position in positions])
    time, *others = uniforms.unbind(1)
    return Draws((places + time) / strata, *others, torch.stack([noise for _, noise in rows]))


def _draw_one(seed: int, position: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    generator = sample_generator(seed, position)
    return torch.rand(_UNIFORMS, generator=generator), torch.randn(shape, generator=generator)


def sample_generator(seed: int, position: int) -> torch.Generator:
    """The generator of everything random about the sample at `position`."""
    return torch.Generator().manual_seed((seed * _MIX + position) % 2**63)
