"""Attention to some of the keys, and how two such parts become attention to both.

A softmax over all keys is the mean of softmaxes over parts of them, weighted by the exponentials'
sums (arXiv 1805.02867; over a ring of ranks: arXiv 2310.01889). Backends are called as in
`attention.BACKENDS` and also tell the logarithm of that sum. Knows no ranks. No gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .flash_packages import PACKAGES, flash_attend_with_lse
from .local import AUTOMATIC, automatic

aten = torch.ops.aten


class Partial(NamedTuple):
    """`out [B, Sq, H, D]` over the keys seen, and `lse [B, Sq, H]` fp32 of their scores."""

    out: Tensor
    lse: Tensor


PartialBackend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Partial]
"""`q [B, Sq, H, D]`, `k, v [B, Sk, H, D]`, which keys are `valid [B, Sk]` (None: all)."""


def merge(part: Partial, more: Partial) -> Partial:
    """Over the keys of both; `out` in fp32, so that many can be merged before one rounding."""
    lse = torch.logaddexp(part.lse, more.lse)
    finite = lse.nan_to_num(neginf=0.0)  # two parts may be nothing but padding
    weights = torch.exp(part.lse - finite), torch.exp(more.lse - finite)
    out = part.out.float() * weights[0][..., None]
    return Partial(torch.addcmul(out, more.out.float(), weights[1][..., None]), lse)


def get_partial_backend(name: str) -> PartialBackend:
    """For the attention backend called `name`; ValueError where that one cannot tell the sum."""
    if name in PACKAGES:
        return partial(_package, name)
    if name not in PARTIAL_BACKENDS:
        known = sorted({*PARTIAL_BACKENDS, *PACKAGES})
        raise ValueError(f"a ring of ranks needs an attention backend out of {known}, got {name!r}")
    return PARTIAL_BACKENDS[name]


def _automatic(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    name = automatic(q.shape[-1], q.dtype, q.device, valid is not None)
    return get_partial_backend(name)(q, k, v, valid)


def _package(name: str, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    out, lse = flash_attend_with_lse(name, q, k, v, valid)
    return _part(out.transpose(1, 2), lse, None)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    if q.device.type == "cpu":
        return _flash(q, k, v, valid)
    if valid is not None:
        return _efficient(q, k, v, valid)
    is_hopper = torch.cuda.get_device_capability(q.device) >= (9, 0)
    return (_cudnn if is_hopper else _flash)(q, k, v, valid)


def _flash(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    q, k, v = _heads_first(q, k, v)
    scale = q.shape[-1] ** -0.5
    if q.device.type == "cpu":
        bias = None if valid is None else _bias(valid, q)
        kernel = aten._scaled_dot_product_flash_attention_for_cpu
        out, lse, *_ = kernel(q, k, v, attn_mask=bias, scale=scale)
    else:
        _refuse_padding("flash", valid)
        out, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
    return _part(out, lse, valid)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    _refuse_padding("cudnn", valid)
    q, k, v = _heads_first(q, k, v)
    scale = q.shape[-1] ** -0.5
    out, lse, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, scale=scale)
    return _part(out, lse, valid)


def _efficient(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    q, k, v = _heads_first(q, k, v)
    bias = None if valid is None else _bias(valid, q)
    scale = q.shape[-1] ** -0.5
    out, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=scale)
    return _part(out, lse, valid)


def _math(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    q, k, v = _heads_first(q, k, v)
    scores = torch.matmul(q, k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
    if valid is not None:
        scores = scores + _bias(valid, q)
    lse = scores.logsumexp(dim=3)
    return _part(torch.matmul(torch.exp(scores - lse[..., None]).to(v.dtype), v), lse, valid)


PARTIAL_BACKENDS: dict[str, PartialBackend] = {
    AUTOMATIC: _automatic,
    "sdpa": _sdpa,
    "flash": _flash,
    "cudnn": _cudnn,
    "efficient": _efficient,
    "math": _math,
}

BIAS_ALIGNMENT = 16  # elements of a row, which the memory-efficient kernel reads at once


def _bias(valid: Tensor, q: Tensor) -> Tensor:
    """`[B, H, Sq, Sk]` to add to the scores, all of it one row of each sample."""
    keys = valid.shape[1]
    row = q.new_zeros(len(valid), keys).masked_fill(~valid, float("-inf"))
    row = F.pad(row, (0, -keys % BIAS_ALIGNMENT))[:, None, None, :keys]
    return row.expand(-1, q.shape[1], q.shape[2], -1)


def _refuse_padding(name: str, valid: Tensor | None) -> None:
    if valid is not None:
        raise ValueError(
            f"attention backend {name} cannot leave out padding in a ring of ranks; choose "
            "efficient or math, or texts of one length"
        )


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(each.transpose(1, 2) for each in tensors)


def _part(out: Tensor, lse: Tensor, valid: Tensor | None) -> Partial:
    batch, heads, tokens = out.shape[:3]
    lse = lse.reshape(batch, heads, -1)[:, :, :tokens]  # one kernel pads it
    if valid is not None:  # a part may be nothing but padding, and its mean no number
        out = out.masked_fill(~valid.any(1)[:, None, None, None], 0.0)
        lse = lse.masked_fill(~valid.any(1)[:, None, None], float("-inf"))
    return Partial(out.transpose(1, 2), lse.transpose(1, 2))
