"""Rotary position tables of the image tokens, an axis each for t, h, w (arXiv 2104.09864)."""

import torch
from torch import Tensor

ROPE_THETA = 256.0


def rope_frequencies(
    grid: tuple[int, int, int], axes: tuple[int, int, int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """cos and sin `[T·H·W, sum(axes)/2]` fp32 for patch positions t, h, w: one value a pair."""
    positions = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [_angles(p.flatten(), axis) for p, axis in zip(positions, axes, strict=True)]
    table = torch.cat(angles, dim=1)
    return table.cos().to(device), table.sin().to(device)


def _angles(position: Tensor, axis: int) -> Tensor:
    frequency = 1.0 / ROPE_THETA ** (torch.arange(0, axis, 2).float() / axis)
    return torch.outer(position, frequency)
