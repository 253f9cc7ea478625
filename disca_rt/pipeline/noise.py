"""Initial noise of a sample, drawn as this runtime, diffusers or the authors draw it.

One seed gives three different videos in the three programs: each draws other numbers. The rules are
those of diffusers' HunyuanVideo pipelines, and of Tencent's two repositories.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..family import VIDEO_10, VIDEO_15, Family

NoiseRule = Literal["disca", "diffusers", "official"]


class Draw(NamedTuple):
    """How noise is drawn: `dtype` None is the DiT's; `by_row`: each sample from a seed of its own.

    `on_device`: by the generator of the DiT's device, else by the CPU's.
    """

    dtype: torch.dtype | None
    by_row: bool
    on_device: bool


DRAWS: dict[tuple[NoiseRule, Family], Draw] = {
    ("disca", VIDEO_10.name): Draw(torch.float32, by_row=True, on_device=False),
    ("disca", VIDEO_15.name): Draw(torch.float32, by_row=True, on_device=False),
    ("diffusers", VIDEO_10.name): Draw(torch.float32, by_row=False, on_device=False),
    ("diffusers", VIDEO_15.name): Draw(None, by_row=False, on_device=False),
    ("official", VIDEO_10.name): Draw(torch.float16, by_row=True, on_device=True),
    ("official", VIDEO_15.name): Draw(torch.bfloat16, by_row=False, on_device=False),
}
NOISE_RULES = tuple(dict.fromkeys(rule for rule, _ in DRAWS))


def draw_noise(
    rule: NoiseRule,
    family: Family,
    shape: Sequence[int],
    seeds: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Draw `[B, C, T, H, W]` in fp32 for `shape` (C, T, H, W): a row for each of `seeds`.

    `dtype` and `device` are the DiT's. Where all rows come from one generator, it has the first
    seed.
    """
    draw = DRAWS[rule, family]
    there = device if draw.on_device else torch.device("cpu")
    drawn = draw.dtype or dtype
    if draw.by_row:
        return torch.stack([_normal(shape, seed, drawn, there) for seed in seeds]).float()
    return _normal((len(seeds), *shape), seeds[0], drawn, there).float()


def _normal(shape: Sequence[int], seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=device)
