"""What the device can do at best, in the same run: a matrix product, and a copy. Knows no model."""

import torch

from ..instruments.ceiling_work import ceiling_work
from .harness import Comparison, Contender

MATMUL, COPY = "matrix product", "copy"
SAMPLES = 30


def ceilings(device: torch.device, dtype: torch.dtype, is_quick: bool) -> list[Comparison]:
    """One comparison each, of one contender."""
    work = ceiling_work(device, dtype, is_quick)
    name = str(dtype).removeprefix("torch.")
    product = Contender(MATMUL, work.product, flops=work.flops)
    copy = Contender(COPY, work.copy, minimum_bytes=work.moved_bytes)
    return [
        Comparison(MATMUL, {"side": work.side}, name, [product], SAMPLES),
        Comparison(COPY, {"bytes": work.copied}, "uint8", [copy], SAMPLES),
    ]
