"""Heads by the rank that gets them: the layout in which `rms_norm_rope_send` leaves them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Numbers of heads by rank, `counts`, and for each head, `starts`.

    `starts [2, H]` int32 on the device has the first head of the rank that gets this one, and the
    number of heads which that rank gets.
    """

    counts: tuple[int, ...]
    starts: Tensor


def packing(counts: Sequence[int], device: torch.device | str) -> Packing:
    """The packing for ranks that get the next `counts` heads each."""
    first: list[int] = []
    for count in counts:
        first += [len(first)] * count
    numbers = [count for count in counts for _ in range(count)]
    return Packing(tuple(counts), torch.tensor([first, numbers], dtype=torch.int32, device=device))
