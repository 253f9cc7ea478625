"""Finds the object in each frame of a clip: the largest connected blob unlike the background."""

from typing import NamedTuple

import torch
from torch.nn.functional import max_pool2d

# Foreground: RGB distance to the background above both. The palest pair of the palette (green on
# gray) is 0.44 apart, and noise of sd 0.03 reaches 0.2 once in about 10^9 pixels.
FOREGROUND_DISTANCE = 0.2
FOREGROUND_CONTRAST = 0.35  # of the frame's largest distance: leaves a blurred rim's tail out
MIN_AREA = 6  # pixels of a blob that counts; the smallest object has 24
MAX_SHARE = 0.4  # of the region; the largest object has 0.16, pure noise nearly 1


class LargestBlob(NamedTuple):
    """Largest blob in each of T frames."""

    mask: torch.Tensor  # [T, h, w] bool, all False where there is none
    present: torch.Tensor  # [T] bool
    alone: bool  # exactly one blob in every frame


def find_blob(distance: torch.Tensor) -> LargestBlob:
    """Find the largest blob of each frame by pixels' RGB distance to the background, [T, h, w]."""
    frames, height, width = distance.shape
    contrast = distance.amax(dim=(1, 2), keepdim=True)
    foreground = distance > (FOREGROUND_CONTRAST * contrast).clamp(min=FOREGROUND_DISTANCE)
    labels = _label(foreground)
    areas = labels.flatten().bincount(minlength=labels.numel() + 1)[1:].view(frames, -1)
    largest = areas.max(dim=1)
    present = (largest.values >= MIN_AREA) & (largest.values <= MAX_SHARE * height * width)
    first_label = torch.arange(frames) * height * width + 1
    mask = labels == (first_label + largest.indices)[:, None, None]
    alone = present.all() and ((areas >= MIN_AREA).sum(dim=1) == 1).all()
    return LargestBlob(mask & present[:, None, None], present, bool(alone))


def _label(foreground: torch.Tensor) -> torch.Tensor:
    """Number the 8-connected blobs of each frame, [T, h, w], by their last pixel's index + 1."""
    labels = torch.arange(1, foreground.numel() + 1).view(foreground.shape) * foreground
    while True:
        grown = dilate(labels) * foreground
        if torch.equal(grown, labels):
            return labels
        labels = grown


def dilate(image: torch.Tensor) -> torch.Tensor:
    """Take the largest value among each pixel and its 8 neighbours, [T, h, w]."""
    # float64 holds the integer labels exactly
    return max_pool2d(image.double()[:, None], 3, stride=1, padding=1)[:, 0].to(image.dtype)
