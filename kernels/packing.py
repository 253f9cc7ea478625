"""Heads by the rank that gets them: how `rms_norm_rope_send` lays out what an all-to-all sends."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """`counts` of heads by rank, and the same by head.

    `starts [2, H]` int32, on the device: the first head of the rank that gets this one, and how
    many that rank gets.
    """

    counts: tuple[int, ...]
    starts: Tensor


def packing(counts: Sequence[int], device: torch.device | str) -> Packing:
    """For ranks that get the next `counts` heads each."""
    first: list[int] = []
    for count in counts:
        first += [len(first)] * count
    numbers = [count for count in counts for _ in range(count)]
    return Packing(tuple(counts), torch.tensor([first, numbers], dtype=torch.int32, device=device))
