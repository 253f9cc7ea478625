"""Likeness of samples to those without a cache: relative L2, PSNR and SSIM. Knows tensors only.

Frames are compared a few at a time: a video of 129 frames at 1280x720 has 3 GB in fp64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

WINDOW = 7  # pixels, of a square of equal weights
C1, C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for values in [0, 1]
SAME = 100.0  # dB, of videos that are nearly or wholly equal
TOGETHER = 8  # frames that are compared at once


class Likeness(NamedTuple):
    """Measures of one sample: `l2` of latents; `psnr` in dB and `ssim` of its video, if any."""

    l2: float
    psnr: float | None
    ssim: float | None


def likeness(
    latents: Tensor, frames: Tensor | None, reference: Tensor, reference_frames: Tensor | None
) -> Likeness:
    """Compare one sample's latents `[C, T, h, w]` and frames `[3, T, H, W]` uint8 with others.

    Latents that are not finite are infinitely far. Without frames there is neither PSNR nor SSIM.
    """
    difference = (latents.double() - reference.double()).norm() / reference.double().norm()
    l2 = difference.item() if difference.isfinite() else float("inf")
    if frames is None or reference_frames is None:
        return Likeness(l2, None, None)
    return Likeness(l2, psnr(frames, reference_frames), ssim(frames, reference_frames))


def eight_bits(video: Tensor) -> Tensor:
    """Turn values in [0, 1] into uint8, as a viewer gets them; those that are not finite into 0."""
    return (video.float().nan_to_num(0, 0, 0).clamp(0, 1) * 255).round().byte()


def psnr(video: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio over all frames, in dB; at most `SAME`.

    Values are in [0, 1], or 8-bit ones.
    """
    total = sum((a - b).square().sum() for a, b in _pieces(video, reference))
    return min(SAME, (-10 * (total / video.numel()).log10()).item())


def ssim(video: Tensor, reference: Tensor) -> float:
    """Structural similarity, the mean over frames and colours (Wang et al. 2004).

    Means over a square window with equal weights; frames smaller than it have one of their size.
    """
    total = sum(_ssim(a, b) * len(a) for a, b in _pieces(video, reference))
    return (total / video.shape[1]).item()


def _pieces(video: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A few frames of both at a time, `[t, 3, H, W]` fp64 in [0, 1]."""
    for pair in zip(video.split(TOGETHER, 1), reference.split(TOGETHER, 1), strict=True):
        yield tuple(
            each.double().transpose(0, 1) / (255 if each.dtype == torch.uint8 else 1)
            for each in pair
        )


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """The mean over frames `[t, 3, H, W]`."""
    window = min(WINDOW, *a.shape[-2:])

    def local_mean(x: Tensor) -> Tensor:
        return avg_pool2d(x, window, stride=1)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a = local_mean(a * a) - mean_a.square()
    variance_b = local_mean(b * b) - mean_b.square()
    covariance = local_mean(a * b) - mean_a * mean_b
    structure = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    size = (mean_a.square() + mean_b.square() + C1) * (variance_a + variance_b + C2)
    return torch.mean(structure / size)
