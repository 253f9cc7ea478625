"""GELU(weight·x + bias): a GEMM and a pass in place, or the GEMM's own epilogue where that wins."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .gelu_tanh import gelu_tanh_
from .gradients import products_kept
from .launch import launch_variant
from .registration import register_op

OP = "linear_gelu"
DEFAULT = "epilogue"  # on CUDA: a pass over the result is 8 activations more
ELSEWHERE = "in place"


def in_epilogue(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The product and GELU by cuBLASLt. Not for a CPU, whose epilogue is the other GELU."""
    flat = torch._addmm_activation(bias, x.flatten(0, 1), weight.T, use_gelu=True)
    return flat.unflatten(0, x.shape[:2])


def in_place(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The product, then GELU over its result."""
    out = F.linear(x, weight, bias)
    gelu_tanh_.launcher(out)
    return out


VARIANTS = {DEFAULT: in_epilogue, ELSEWHERE: in_place}


def default_variant(device: torch.device) -> str:
    """The variant where the launch table has none."""
    return DEFAULT if device.type == "cuda" else ELSEWHERE


@products_kept
@register_op()
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The variant that the launch table has for this device, or the default."""
    variant = launch_variant(OP, len(weight), x.device, default_variant(x.device))
    return VARIANTS[variant](x, weight, bias)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], len(weight)))
