"""Likeness of samples to those without a cache: relative L2, PSNR and SSIM. Knows tensors only."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

WINDOW = 7  # pixels, of a square of equal weights
C1, C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for values in [0, 1]
SAME = 100.0  # dB, of videos that are nearly or wholly equal


class Likeness(NamedTuple):
    """Measures of one sample: `l2` of latents; `psnr` in dB and `ssim` of its video."""

    l2: float
    psnr: float
    ssim: float


def likeness(
    latents: Tensor, frames: Tensor, reference: Tensor, reference_frames: Tensor
) -> Likeness:
    """Compare one sample's latents `[C, T, h, w]` and frames `[3, T, H, W]` uint8 with others.

    Latents that are not finite are infinitely far.
    """
    difference = (latents.double() - reference.double()).norm() / reference.double().norm()
    l2 = difference.item() if difference.isfinite() else float("inf")
    ours, theirs = frames.double() / 255, reference_frames.double() / 255
    return Likeness(l2, psnr(ours, theirs), ssim(ours, theirs))


def eight_bits(video: Tensor) -> Tensor:
    """Turn values in [0, 1] into uint8, as a viewer gets them; those that are not finite into 0."""
    return (video.float().nan_to_num(0, 0, 0).clamp(0, 1) * 255).round().byte()


def psnr(video: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio of values in [0, 1], over all frames, in dB; at most `SAME`."""
    error = (video.double() - reference.double()).square().mean()
    return min(SAME, (-10 * error.log10()).item())


def ssim(video: Tensor, reference: Tensor) -> float:
    """Structural similarity, the mean over frames and colours (Wang et al. 2004).

    Means over a square window with equal weights; frames smaller than it have one of their size.
    """
    a, b = (each.double().transpose(0, 1) for each in (video, reference))  # [T, 3, H, W]
    window = min(WINDOW, *a.shape[-2:])

    def local_mean(x: Tensor) -> Tensor:
        return avg_pool2d(x, window, stride=1)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a = local_mean(a * a) - mean_a.square()
    variance_b = local_mean(b * b) - mean_b.square()
    covariance = local_mean(a * b) - mean_a * mean_b
    structure = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    size = (mean_a.square() + mean_b.square() + C1) * (variance_a + variance_b + C2)
    return torch.mean(structure / size).item()
