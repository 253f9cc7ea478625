"""Work that shows what a device can do at best: a large matrix product, and a large copy.

Data are random: a chip that is limited by its power multiplies zeros faster. Knows no clock.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

SIDES = {"cuda": 8192, "cpu": 1024}
COPIED = {"cuda": 2**30, "cpu": 2**28}
SMALL_SIDE, SMALL_COPIED = 128, 2**20


class CeilingWork(NamedTuple):
    """Functions that run the work: `product` of matrices of `side`², `copy` of `copied` bytes."""

    product: Callable[[], object]
    copy: Callable[[], object]
    side: int
    copied: int

    @property
    def flops(self) -> int:
        return 2 * self.side**3

    @property
    def moved_bytes(self) -> int:
        return 2 * self.copied


def ceiling_work(device: torch.device, dtype: torch.dtype, is_small: bool = False) -> CeilingWork:
    """Work on `device`, data included, the product in `dtype`; `is_small` is for a trial."""
    side = SMALL_SIDE if is_small else SIDES[device.type]
    copied = SMALL_COPIED if is_small else COPIED[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.randint(255, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return CeilingWork(lambda: torch.mm(a, b, out=out), lambda: target.copy_(source), side, copied)
