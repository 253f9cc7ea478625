"""A multi-scale discriminator over a DiT's hidden states, with spectral normalisation.

One head per depth and scale looks at the image tokens on their (T, H, W) grid, average-pooled by
the scale in H and W, and gives a logit per place (patch critics, arXiv 1611.07004, 1711.11585;
spectral normalisation arXiv 1802.05957).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

SCALES = 1, 2, 4
LEAK = 0.2  # slope of LeakyReLU below zero


class Features(NamedTuple):
    """Hidden states to judge: image tokens `[B, S_img, C]` by depth, on a (T, H, W) grid."""

    hidden: Sequence[Tensor]
    grid: tuple[int, int, int]


class Discriminator(nn.Module):
    """Judges hidden states of `depths` blocks, `hidden` wide; its convolutions are `width` wide.

    With `checkpointed` the backward computes all but its inputs again, instead of keeping it.
    """

    def __init__(self, hidden: int, depths: int, width: int, checkpointed: bool = False) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_Heads(hidden, width) for _ in range(depths))
        self.checkpointed = checkpointed
        self.train()

    def train(self, mode: bool = True) -> "Discriminator":
        """Change nothing: spectral norms iterate in `advance`, not in every forward."""
        return super().train(False)

    def advance(self) -> None:
        """Take one power iteration of every spectral norm; to be called once per step."""
        for head in self.modules():
            if isinstance(head, _Head):
                for layer in (head.project, head.look, head.judge):
                    norm = layer.parametrizations.weight[0]
                    norm.train()
                    _ = layer.weight  # iterates
                    norm.eval()

    def forward(self, features: Features) -> list[Tensor]:
        """Judge features: one `[B, 1, T, H', W']` of logits per depth and scale, high for real."""
        return self._logits(features, lambda heads: heads)

    def frozen_logits(self, features: Features) -> list[Tensor]:
        """Judge features such that the features get gradients and the discriminator none."""
        return self._logits(features, _frozen)

    def _logits(
        self, features: Features, form: Callable[["_Heads"], Callable[..., list[Tensor]]]
    ) -> list[Tensor]:
        logits = []
        for heads, hidden in zip(self.heads, features.hidden, strict=True):
            run = form(heads)
            if self.checkpointed:
                logits += checkpoint(run, hidden, features.grid, use_reentrant=False)
            else:
                logits += run(hidden, features.grid)
        return logits


class _Heads(nn.ModuleList):
    """Heads for the hidden states of one depth, one head for each scale."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__(_Head(hidden, width) for _ in SCALES)

    def forward(self, hidden: Tensor, grid: tuple[int, int, int]) -> list[Tensor]:
        image = F.layer_norm(hidden.float(), hidden.shape[-1:]).transpose(1, 2)
        image = image.unflatten(2, grid)  # B C T H W
        return [head(_pooled(image, scale)) for head, scale in zip(self, SCALES, strict=True)]


def _frozen(heads: _Heads) -> Callable[..., list[Tensor]]:
    """Make a function that is `heads` with constants for parameters."""
    constants = {name: parameter.detach() for name, parameter in heads.named_parameters()}
    return lambda *features: functional_call(heads, constants, features)


class _Head(nn.Module):
    """Three convolutions from `[B, hidden, T, H, W]` to logits `[B, 1, T, H, W]`, fp32."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        # Without biases: real and fake are so close that they cancel in a bias's gradient, and Adam
        # would make a random walk of what is left.
        self.project = spectral_norm(nn.Conv3d(hidden, width, 1, bias=False))
        self.look = spectral_norm(nn.Conv3d(width, width, 3, padding=1, bias=False))
        self.judge = spectral_norm(nn.Conv3d(width, 1, 1, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        image = F.leaky_relu(self.project(image), LEAK)
        image = F.leaky_relu(self.look(image), LEAK)
        return self.judge(image).float()


def _pooled(image: Tensor, scale: int) -> Tensor:
    """Average `[B, C, T, H, W]` over windows of scale x scale places, smaller at the border."""
    height, width = (min(scale, side) for side in image.shape[-2:])
    return F.avg_pool3d(image, (1, height, width), ceil_mode=True)


def hinge_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Discriminator's loss, a scalar: max(0, 1 − D(real)) + max(0, 1 + D(fake)) over all heads."""
    losses = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()
