"""Attention over heads in FP8: the kernels of packages that have one, and the same decoded.

Kernels take e4m3 heads with scales that are on the device, so that a captured graph reads those of
the day. Softmax is fp32; its exponentials are rounded to e4m3 before the second product, too.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.fp8_reference import quantize_heads, rounded, scale_heads
from .cudnn_fp8 import cudnn_attend, cudnn_missing
from .flash_packages import FA3

LARGEST_WEIGHT = 2.0**8  # what the largest exponential of a row becomes, as FlashAttention 3 has it


class Heads(NamedTuple):
    """`values [B, S, H, D]` e4m3 times `scale` fp32, `[B, H]`, or `[B, 1]` of all heads."""

    values: Tensor
    scale: Tensor


class Fp8Kernel(NamedTuple):
    """A way to attend in FP8.

    `attend(q, k, v, valid, dtype)` gives `[B, S, H, D]` in `dtype`; `per_head`: each head may have
    a scale of its own; `padding`: it can leave out padding. `capability` is the least of a GPU.
    """

    attend: Callable[[Heads, Heads, Heads, Tensor | None, torch.dtype], Tensor]
    device: str | None
    install: str | None = None
    missing: Callable[[], str | None] = lambda: None
    capability: tuple[int, int] = (0, 0)
    per_head: bool = True
    padding: bool = False

    def runs_on(self, device: torch.device) -> bool:
        """Tell whether it is here, and runs on `device`."""
        if self.device not in (None, device.type) or self.missing() is not None:
            return False
        if device.type != "cuda":
            return True
        return torch.cuda.get_device_capability(device) >= self.capability

    def new_scale(self, heads: Tensor) -> Tensor:
        """Zeros for the scales of `heads [B, S, H, D]`."""
        count = heads.shape[2] if self.per_head else 1
        return torch.zeros(len(heads), count, device=heads.device)


def attend_decoded(
    q: Heads, k: Heads, v: Heads, valid: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Attention with the arithmetic of FlashAttention 3 in FP8; keeps all scores."""
    decoded = (each.values.float() * each.scale[:, None, :, None] for each in (q, k))
    queries, keys = (each.transpose(1, 2) for each in decoded)
    scores = torch.matmul(queries, keys.transpose(2, 3)) * q.values.shape[-1] ** -0.5
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None, None], float("-inf"))
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    total = weights.sum(dim=-1, keepdim=True)
    coarse = rounded(weights * LARGEST_WEIGHT).float() / LARGEST_WEIGHT
    out = torch.matmul(coarse, v.values.float().transpose(1, 2)) / total
    return (out * v.scale[:, :, None, None]).transpose(1, 2).to(dtype)


def _flash_attend(q: Heads, k: Heads, v: Heads, valid: Tensor | None, dtype: torch.dtype) -> Tensor:
    """FlashAttention 3 over e4m3 heads, which gives bf16."""
    of_heads = q.values.shape[0], q.values.shape[2]
    scales = {
        f"{name}_descale": each.scale.expand(of_heads)
        for name, each in zip("qkv", (q, k, v), strict=True)
    }
    return FA3.attend(q.values, k.values, v.values, valid, **scales).to(dtype)


def _cudnn_attend(q: Heads, k: Heads, v: Heads, valid: Tensor | None, dtype: torch.dtype) -> Tensor:
    """cuDNN over e4m3 heads, a sample at a time: it takes one scale of a tensor."""
    samples = [
        cudnn_attend(*(Heads(*(x[i : i + 1] for x in each)) for each in (q, k, v)), dtype)
        for i in range(len(q.values))
    ]
    return samples[0] if len(samples) == 1 else torch.cat(samples)


FP8_KERNELS: dict[str, Fp8Kernel] = {
    "fa3-fp8": Fp8Kernel(_flash_attend, "cuda", "fa3-fwd", FA3.missing, (9, 0)),
    "cudnn-fp8": Fp8Kernel(
        _cudnn_attend, "cuda", "nvidia-cudnn-frontend", cudnn_missing, (9, 0), per_head=False
    ),
    "decoded-fp8": Fp8Kernel(attend_decoded, None, padding=True),
}
"""The kernels by name, the fastest first; the last runs anywhere, and is no faster than 16 bits."""


@cache
def fp8_kernel(name: str, device: torch.device) -> Fp8Kernel | None:
    """The kernel for a model in FP8 whose attention backend is called `name`; None: 16 bits.

    "auto" is the fastest that is here, on a CPU the decoded one; a backend that is asked for is
    had, in FP8 or not.
    """
    if name != "auto":
        return FP8_KERNELS.get(name)
    kernels = [kernel for kernel in FP8_KERNELS.values() if kernel.runs_on(device)]
    is_slow = device.type == "cuda" and kernels[0].attend is attend_decoded
    return None if is_slow else kernels[0]


def quantized_heads(
    x: Tensor, scale: Tensor, quantize: Callable[[Tensor, Tensor], Tensor] = quantize_heads
) -> Heads:
    """`x [B, S, H, D]` by `scale`; as it is where it is e4m3."""
    return Heads(x if x.dtype.itemsize == 1 else quantize(x, scale), scale)


def scaled_at_once(
    kernel: Fp8Kernel, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None
) -> Tensor:
    """Attention over 16-bit heads, each tensor with scales of this call: a backend of the table."""
    heads = []
    for each in (q, k, v):
        scale = kernel.new_scale(each)
        scale_heads(each, scale)
        heads.append(quantized_heads(each, scale))
    return kernel.attend(*heads, valid, q.dtype)


def backend(kernel: Fp8Kernel) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """The function of a backend that attends by `kernel`."""
    return partial(scaled_at_once, kernel)
