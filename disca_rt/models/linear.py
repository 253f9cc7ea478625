"""Linears that stay in FP8 in memory and are decoded when they are used.

Half the bytes of bf16, and no less work: the product takes the decoded weight. Which linears: those
of the DiT's blocks, as in the official FP8 checkpoints. Knows no checkpoint.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import QKVLinear

FP8 = torch.float8_e4m3fn
ALL = slice(None)


class Fp8Linear(nn.Linear):
    """`quantized [out, in]` in FP8 times `scale [out, 1]`, in the dtype that the scale has.

    A scale a row holds those of an official checkpoint whose q, k and v have one each. `weight` is
    decoded anew whenever it is asked for.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """As large as `linear`, whose bias it takes over; to be filled by `keep` or `quantize`."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        weight, device = linear.weight, linear.weight.device
        # Of empty_like and of slices the meta device first imports a second of torch._refs.
        rows = linear.out_features, 1
        self.register_buffer("quantized", torch.empty(weight.shape, dtype=FP8, device=device))
        self.register_buffer("scale", torch.empty(rows, dtype=weight.dtype, device=device))

    @property
    def weight(self) -> Tensor:
        return self.weight_rows(ALL)

    def weight_rows(self, rows: slice) -> Tensor:
        """Those of `weight`; no others are decoded."""
        return self.quantized[rows].to(self.scale.dtype).mul_(self.scale[rows])

    def keep(self, rows: slice, quantized: Tensor, scale: Tensor) -> None:
        """Take FP8 values as they are, with the one scale of all of them."""
        self.quantized[rows].copy_(quantized)
        self.scale[rows] = scale.to(self.scale)

    def quantize(self, rows: slice, weight: Tensor) -> None:
        """Take a weight of any float dtype: the largest value of a row becomes FP8's largest."""
        weight = weight.to(self.quantized.device)
        largest = weight.abs().amax(dim=1, keepdim=True).float() / torch.finfo(FP8).max
        # A subnormal scale would be a coarse one, and a zero would divide zeros.
        scale = largest.to(self.scale.dtype).clamp_min(torch.finfo(self.scale.dtype).tiny)
        self.scale[rows] = scale
        self.quantized[rows] = (weight / scale.float()).to(FP8)


class Fp8QKVLinear(Fp8Linear, QKVLinear):
    """A merged weight of which only the rows in use are decoded."""


def quantize_blocks(blocks: Sequence[nn.Module]) -> None:
    """Put an `Fp8Linear`, yet to be filled, in place of every linear of `blocks`."""
    for block in blocks:
        for module in list(block.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    kind = Fp8QKVLinear if isinstance(child, QKVLinear) else Fp8Linear
                    setattr(module, name, kind(child))


def fp8_linears(module: nn.Module) -> dict[str, Fp8Linear]:
    """By their names in `module`."""
    return {name: m for name, m in module.named_modules() if isinstance(m, Fp8Linear)}
