"""PyTorch's own attention kernels: each alone, and with the log-sum-exp that its public call hides.

All take `q [B, Sq, H, D]`, `k, v [B, Sk, H, D]` and which keys are `valid [B, Sk]` (None: all).
Knows no names and no table. With the log-sum-exp there is no gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .partial import Partial

CPU_VECTOR = 16  # fp32 values: at width 14 attention took 19 ms, padded to 16 it takes 12
BIAS_ALIGNMENT = 16  # elements of a row, which the memory-efficient kernel reads at once

aten = torch.ops.aten


def sdpa(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention by the kernel that PyTorch chooses."""
    if q.device.type != "cpu":
        if valid is not None and _needs_grad(q, k, v):
            # cuDNN's backward gives NaN at a mask and a length of 64 modulo 128 (pytorch#196678).
            return efficient(q, k, v, valid)
        return _attend(q, k, v, valid, q.shape[-1])
    # A CPU's fused kernel is fastest in fp32, and on whole vectors of it.
    width, dtype = q.shape[-1], q.dtype
    at_least_fp32 = torch.promote_types(dtype, torch.float32)
    q, k, v = [F.pad(x.to(at_least_fp32), (0, -width % CPU_VECTOR)) for x in (q, k, v)]
    with torch.autocast("cpu", enabled=False):
        return _attend(q, k, v, valid, width)[..., :width].to(dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, width: int) -> Tensor:
    """Attention of heads that were `width` wide before padding."""
    mask = None if valid is None else valid[:, None, None, :]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=width**-0.5)
    return out.transpose(1, 2)


# One kernel each, by its own operator: PyTorch's choice among them is a switch of the whole
# process, in which two threads would undo each other's.


def cudnn(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention by cuDNN, which has heads of 16 bits only."""
    keeps_lse = _needs_grad(q, k, v)
    return _one(aten._scaled_dot_product_cudnn_attention, q, k, v, _bias(valid, q), keeps_lse)


def flash(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """FlashAttention 2; on a GPU it cannot leave out padding."""
    if q.device.type != "cpu":
        return _one(aten._scaled_dot_product_flash_attention, q, k, v)
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    return _one(kernel, q, k, v, attn_mask=_bias(valid, q))


def flash_with_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """FlashAttention 2 to the first `lengths [B]` int32 keys of each sample; no gradient."""
    starts = (
        torch.arange(0, (len(x) + 1) * x.shape[1], x.shape[1], device=x.device, dtype=torch.int32)
        for x in (q, k)
    )
    rows = (x.flatten(0, 1) for x in (q, k, v))
    out, *_ = aten._flash_attention_forward(
        *rows, *starts, q.shape[1], k.shape[1], 0.0, False, False,
        scale=q.shape[-1] ** -0.5, seqused_k=lengths,
    )  # fmt: skip
    return out.view(q.shape)


def efficient(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Memory-efficient attention (arXiv 2112.05682)."""
    keeps_lse = _needs_grad(q, k, v)
    return _one(aten._scaled_dot_product_efficient_attention, q, k, v, _bias(valid, q), keeps_lse)


def math(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """Attention by two products and all scores between them."""
    return _one(aten._scaled_dot_product_attention_math, q, k, v, _bias(valid, q))


def _one(kernel: Any, q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
    out, *_ = kernel(*_heads_first(q, k, v), *more, scale=q.shape[-1] ** -0.5, **named)
    return out.transpose(1, 2)


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)


def sdpa_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    """Attention by the kernel that is fastest on this device, of those that leave out padding."""
    if q.device.type == "cpu":
        return flash_with_lse(q, k, v, valid)
    if valid is not None:
        return efficient_with_lse(q, k, v, valid)
    is_hopper = torch.cuda.get_device_capability(q.device) >= (9, 0)
    return (cudnn_with_lse if is_hopper else flash_with_lse)(q, k, v, valid)


def flash_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    """FlashAttention 2; on a GPU it cannot leave out padding."""
    if q.device.type != "cpu":
        return _with_lse(aten._scaled_dot_product_flash_attention, q, k, v, valid)
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    return _with_lse(kernel, q, k, v, valid, attn_mask=_bias(valid, q))


def cudnn_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    """Attention by cuDNN, which does not leave out padding here."""
    return _with_lse(aten._scaled_dot_product_cudnn_attention, q, k, v, valid, None, True)


def efficient_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    """Memory-efficient attention (arXiv 2112.05682)."""
    kernel = aten._scaled_dot_product_efficient_attention
    return _with_lse(kernel, q, k, v, valid, _bias(valid, q), True)


def _with_lse(
    kernel: Any, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, *more: Any, **named: Any
) -> Partial:
    scale = q.shape[-1] ** -0.5
    out, lse, *_ = kernel(*_heads_first(q, k, v), *more, scale=scale, **named)
    return _part(out, lse, valid)


def math_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    """Attention by two products and all scores between them."""
    bias = _bias(valid, q)
    q, k, v = _heads_first(q, k, v)
    scores = torch.matmul(q, k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    lse = scores.logsumexp(dim=3)
    return _part(torch.matmul(torch.exp(scores - lse[..., None]).to(v.dtype), v), lse, valid)


def _bias(valid: Tensor | None, q: Tensor) -> Tensor | None:
    """`[B, H, Sq, Sk]` to add to the scores: one row of memory for each sample."""
    if valid is None:
        return None
    keys = valid.shape[1]
    row = q.new_zeros(len(valid), keys).masked_fill(~valid, float("-inf"))
    row = F.pad(row, (0, -keys % BIAS_ALIGNMENT))[:, None, None, :keys]
    return row.expand(-1, q.shape[2], q.shape[1], -1)


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(each.transpose(1, 2) for each in tensors)


def _part(out: Tensor, lse: Tensor, valid: Tensor | None) -> Partial:
    """A `Partial` from `out [B, H, Sq, D]`, `lse [B, H, ≥ Sq]`: zero where all keys are padding."""
    batch, heads, tokens = out.shape[:3]
    lse = lse.reshape(batch, heads, -1)[:, :, :tokens]  # one kernel pads it
    if valid is not None:  # a part may be nothing but padding, and its mean no number
        out = out.masked_fill(~valid.any(1)[:, None, None, None], 0.0)
        lse = lse.masked_fill(~valid.any(1)[:, None, None], float("-inf"))
    return Partial(out.transpose(1, 2), lse.transpose(1, 2))
