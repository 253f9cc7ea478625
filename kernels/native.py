"""The row "native" of the ops: loops in C++ on a CPU (`csrc/cpu_ops.cpp`), each in one pass.

They are for fp32 and bf16 without gradients. For all else an op is the reference's: gradients,
derivatives in forward mode, compilers, dispatch modes, the meta device, fp16 and fp64. GEMMs and
attention are PyTorch's, as are the ops that are imported here: no loop makes those faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import _cpu, reference
from .packing import Packing
from .reference import buffer as buffer
from .reference import euler_step as euler_step
from .reference import forecast_channels as forecast_channels
from .reference import fuse_cached as fuse_cached
from .reference import (
    gate_residual_layer_norm_modulate_quantize as gate_residual_layer_norm_modulate_quantize,
)
from .reference import join_tokens as join_tokens
from .reference import joint_linear as joint_linear
from .reference import layer_norm as layer_norm
from .reference import layer_norm_modulate_quantize as layer_norm_modulate_quantize
from .reference import pair_linear as pair_linear
from .reference import quantize_heads as quantize_heads
from .reference import quantize_joint as quantize_joint
from .reference import quantized_buffer as quantized_buffer
from .reference import rms_norm_rope_quantize as rms_norm_rope_quantize
from .reference import scale_heads as scale_heads
from .reference import scaled_linear as scaled_linear
from .reference import unpatchify as unpatchify


def is_plain() -> bool:
    """Tell whether nothing compiles or differentiates what runs; the rest is looked for in C++."""
    return forward_ad._current_level < 0 and not torch.compiler.is_compiling()


def attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor | None:
    """Attention `[B, S, H, D]` to `valid` keys `[B, S]`; None where it is left to PyTorch."""
    return _cpu.attention(q, k, v, valid) if is_plain() else None


def layer_norm_modulate(
    x: Tensor, shift: Tensor, scale: Tensor, out: Tensor | None = None
) -> Tensor:
    found = _cpu.layer_norm_modulate(x, shift, scale, out) if is_plain() else None
    return reference.layer_norm_modulate(x, shift, scale, out) if found is None else found


def gate_residual(x: Tensor, branch: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    found = _cpu.gated_sum(x, (branch, gate), out) if is_plain() else None
    return reference.gate_residual(x, branch, gate, out) if found is None else found


def gated_sum(x: Tensor, *branches_and_gates: Tensor, out: Tensor | None = None) -> Tensor:
    found = _cpu.gated_sum(x, branches_and_gates, out) if is_plain() else None
    return reference.gated_sum(x, *branches_and_gates, out=out) if found is None else found


def gate_residual_layer_norm_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    out: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    args = x, branch, gate, shift, scale
    found = _cpu.gate_residual_layer_norm_modulate(*args, *out) if is_plain() else None
    return reference.gate_residual_layer_norm_modulate(*args, out) if found is None else found


def rms_norm_rope(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, freqs_cos: Tensor, freqs_sin: Tensor
) -> Tensor:
    args = x, img_weight, txt_weight, freqs_cos, freqs_sin
    found = _cpu.rms_norm_rope(*args) if is_plain() else None
    return reference.rms_norm_rope(*args) if found is None else found


def rms_norm_rope_pair(
    q: Tensor,
    k: Tensor,
    q_img_weight: Tensor,
    q_txt_weight: Tensor,
    k_img_weight: Tensor,
    k_txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
) -> tuple[Tensor, Tensor]:
    tables = freqs_cos, freqs_sin
    q = rms_norm_rope(q, q_img_weight, q_txt_weight, *tables)
    return q, rms_norm_rope(k, k_img_weight, k_txt_weight, *tables)


def rms_norm_rope_send(
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    packing: Packing,
) -> Tensor:
    rotated = rms_norm_rope(x, img_weight, txt_weight, freqs_cos, freqs_sin)
    return reference.by_ranks(rotated, packing)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    product = F.linear(x, weight, bias)
    found = _cpu.gelu_tanh(product) if is_plain() else None
    return F.gelu(product, approximate="tanh") if found is None else found


def head(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(layer_norm_modulate(x, shift, scale), weight, bias)


def finite_differences(factors: Tensor, newest: Tensor, numbers: Tensor) -> None:
    if not (is_plain() and _cpu.finite_differences(factors, newest, numbers)):
        reference.finite_differences(factors, newest, numbers)


def forecast(factors: Tensor, coefficients: Tensor) -> Tensor:
    found = _cpu.forecast(factors, coefficients) if is_plain() else None
    return reference.forecast(factors, coefficients) if found is None else found
