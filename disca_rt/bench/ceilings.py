"""What the device can do at best, in the same run: a matrix product, and a copy.

On random data: a product of zeros is faster than any real one. Knows no model.
"""

import torch

from .harness import Comparison, Contender

MATMUL, COPY = "matrix product", "copy"
SAMPLES = 30
SIDES = {"cuda": 8192, "cpu": 1024}
COPIED = {"cuda": 2**30, "cpu": 2**26}  # bytes read, and as many written
QUICK_SIDE, QUICK_COPIED = 128, 2**20


def ceilings(device: torch.device, dtype: torch.dtype, is_quick: bool) -> list[Comparison]:
    """One comparison each, of one contender."""
    side = QUICK_SIDE if is_quick else SIDES[device.type]
    size = QUICK_COPIED if is_quick else COPIED[device.type]
    name = str(dtype).removeprefix("torch.")
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(side, side, dtype=dtype, device=device, generator=generator) for _ in range(2)
    )
    out = torch.empty_like(a)
    source = torch.randint(255, (size,), dtype=torch.uint8, device=device, generator=generator)
    target = torch.empty_like(source)
    product = Contender(MATMUL, lambda: torch.mm(a, b, out=out), flops=2 * side**3)
    copy = Contender(COPY, lambda: target.copy_(source), minimum_bytes=2 * size)
    return [
        Comparison(MATMUL, {"side": side}, name, [product], SAMPLES),
        Comparison(COPY, {"bytes": size}, "uint8", [copy], SAMPLES),
    ]
