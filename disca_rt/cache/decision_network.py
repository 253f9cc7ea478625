"""BlockDance-Ada's network: from the latents after the first steps and the text to later steps.

It sees a sample through means over a coarse grid, so that its size does not depend on the sample's,
and gives a number for each later step: above 0 the step computes all blocks. Knows no rules.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import DiTConfig

GRID = 2, 4, 4  # cells of (T, H, W)
WIDTH = 64  # of the hidden layer


class Network(NamedTuple):
    """Weights of two layers, fp32: `[WIDTH, features]`, `[WIDTH]`, `[later, WIDTH]`, `[later]`."""

    hidden_weight: Tensor
    hidden_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor

    def to(self, device: torch.device) -> "Network":
        return Network(*(each.to(device) for each in self))

    @property
    def later(self) -> int:
        """The number of later steps."""
        return len(self.out_bias)

    def __call__(self, features: Tensor) -> Tensor:
        """`[B, features]` to a number for each later step, `[B, later]` fp32."""
        hidden = F.silu(F.linear(features, self.hidden_weight, self.hidden_bias))
        return F.linear(hidden, self.out_weight, self.out_bias)


def shapes(config: DiTConfig, later: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights by name, for a model and `later` steps."""
    of_weights = (WIDTH, count_features(config)), (WIDTH,), (later, WIDTH), (later,)
    return dict(zip(Network._fields, of_weights, strict=True))


def network_of(weights: Mapping[str, Tensor]) -> Network:
    """The network of its weights by name."""
    return Network(*(weights[name].float() for name in Network._fields))


def count_features(config: DiTConfig) -> int:
    """The number of features of a model's samples."""
    cells = GRID[0] * GRID[1] * GRID[2]
    return 2 * config.in_channels * cells + config.text_dim


def features(latents: Tensor, text: Tensor, lengths: Tensor | None) -> Tensor:
    """Features `[B, features]` fp32 of `latents [B, C, T, H, W]` and `text [B, L, D]`.

    Means of each channel and of its size over the cells of a grid, and the mean of the valid text
    tokens, the first `lengths [B]` (None: all), normalised over its D values.
    """
    both = torch.cat([latents, latents.abs()], dim=1).float()
    cells = F.adaptive_avg_pool3d(both, GRID).flatten(1)
    return torch.cat([cells, F.layer_norm(_mean(text, lengths), text.shape[-1:])], dim=1)


def _mean(text: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return text.float().mean(1)
    valid = torch.arange(text.shape[1], device=text.device) < lengths[:, None]
    return (text.float() * valid[:, :, None]).sum(1) / lengths[:, None].clamp(min=1)
