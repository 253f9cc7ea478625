"""Every op of the DiT blocks, the head and the sampler in plain PyTorch.

This file is the specification of the fused kernels, the path on a CPU and the oracle of the tests.
It knows nothing about models, ranks or caches. Shapes: `B` batch, `S` tokens, `C` hidden width,
`H` heads, `D` head width. `shift`, `scale` and `gate` are per sample, `[B, C]`. Callers use only
what an op returns: `out=` is a hint for implementations that write in place, ignored here where
gradients are on, because in-place writes break autograd and forward mode.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .fp8_reference import quantize_heads as quantize_heads
from .fp8_reference import quantize_joint as quantize_joint
from .fp8_reference import quantize_rows, rounded
from .fp8_reference import scale_heads as scale_heads
from .fp8_reference import scaled_linear as scaled_linear
from .key_blocks import Group, KeyBlocks
from .packing import Packing
from .quantized import Quantized

NORM_EPS = 1e-6  # LayerNorm and QK RMSNorm of both models


def buffer(like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Memory for `out=` of the ops that follow, or None where ops return tensors of their own."""
    return None


def quantized_buffer(like: Tensor, shape: tuple[int, ...]) -> Quantized | None:
    """`buffer` of rows that are quantized."""
    return None


def _unless_grad(out: Tensor | None) -> Tensor | None:
    """`out`, or None where a gradient may be taken."""
    return None if torch.is_grad_enabled() else out


def join_tokens(*parts: Tensor, out: Tensor | None = None) -> Tensor:
    """Rows `[B, S_i, C]` one after another, `[B, S, C]`; with `out` they are its rows already."""
    return torch.cat(parts, dim=1)


def joint_linear(
    img: Tensor,
    txt: Tensor,
    img_weight: Tensor,
    img_bias: Tensor,
    txt_weight: Tensor,
    txt_bias: Tensor,
) -> Tensor:
    """A linear of its own for each stream: `[B, S_img, K]`, `[B, S_txt, K]` -> `[B, S, N]`."""
    return torch.cat([F.linear(img, img_weight, img_bias), F.linear(txt, txt_weight, txt_bias)], 1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Affine LayerNorm over the last axis of `x [B, S, C]` (the token refiner's)."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, NORM_EPS)


def layer_norm_modulate(
    x: Tensor, shift: Tensor, scale: Tensor, out: Tensor | None = None
) -> Tensor:
    """`LayerNorm(x)·(1 + scale) + shift` of `x [B, S, C]`, without affine weights (DiT, adaLN)."""
    normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


def gate_residual(x: Tensor, branch: Tensor, gate: Tensor, out: Tensor | None = None) -> Tensor:
    """`x + gate·branch` for `x, branch [B, S, C]`; `out` may be `x`."""
    return torch.addcmul(x, branch, gate[:, None], out=_unless_grad(out))


def gated_sum(x: Tensor, *branches_and_gates: Tensor, out: Tensor | None = None) -> Tensor:
    """`x + Σ gate·branch`: a branch `[B, S, C]`, its gate, the next branch and so on; at least one.

    The sum is taken in fp32 and rounded once. `out` may be `x`.
    """
    total, into = (x, _unless_grad(out)) if x.dtype == torch.float32 else (x.float(), None)
    for branch, gate in zip(branches_and_gates[::2], branches_and_gates[1::2], strict=True):
        total = torch.addcmul(total, branch.to(total.dtype), gate[:, None], out=into)
        into = _unless_grad(total)
    if x.dtype == torch.float32:
        return total
    out = _unless_grad(out)
    return total.to(x.dtype) if out is None else out.copy_(total)


def gate_residual_layer_norm_modulate(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    out: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """The residual `x + gate·branch` and its `layer_norm_modulate`, both `[B, S, C]`."""
    residual = gate_residual(x, branch, gate)
    return residual, layer_norm_modulate(residual, shift, scale)


def layer_norm_modulate_quantize(
    x: Tensor, shift: Tensor, scale: Tensor, out: Quantized | None = None
) -> Quantized:
    """`layer_norm_modulate`, its rows quantized before they are rounded to the dtype of `x`."""
    return quantize_rows(layer_norm_modulate(x.float(), shift.float(), scale.float()))


def gate_residual_layer_norm_modulate_quantize(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    out: tuple[Tensor | None, Quantized | None] = (None, None),
) -> tuple[Tensor, Quantized]:
    """The residual `x + gate·branch` `[B, S, C]` and its `layer_norm_modulate_quantize`."""
    residual = gate_residual(x, branch, gate)
    return residual, layer_norm_modulate_quantize(residual, shift, scale)


def rms_norm_rope(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, freqs_cos: Tensor, freqs_sin: Tensor
) -> Tensor:
    """RMSNorm over each head of `x [B, S, H, D]`, then RoPE on the first `len(freqs_cos)` rows.

    Statistics and rotation are fp32; `freqs_cos, freqs_sin [S_img, D/2]` fp32 rotate interleaved
    pairs (RoFormer, arXiv 2104.09864). Rows past `S_img` are text: normalised with a weight of
    their own, not rotated. `x` is given up: the result may be in its place.
    """
    normed = F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS).to(x.dtype)
    img, txt = normed.split([len(freqs_cos), x.shape[1] - len(freqs_cos)], dim=1)
    even, odd = (img * img_weight).float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = freqs_cos[:, None], freqs_sin[:, None]
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return torch.cat([rotated.flatten(-2).to(x.dtype), txt * txt_weight], dim=1)


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
    """`rms_norm_rope` of `q` and of `k [B, S, H, D]`, by weights of their own; gives up both."""
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
    """`rms_norm_rope` as an all-to-all sends it: the heads of one rank after another's.

    `x [B, S, H, D]` -> `[B, S·H, D]`: of each sample rank r's `[S, H_r, D]`, for all r.
    """
    return by_ranks(rms_norm_rope(x, img_weight, txt_weight, freqs_cos, freqs_sin), packing)


def rms_norm_rope_quantize(
    x: Tensor,
    img_weight: Tensor,
    txt_weight: Tensor,
    freqs_cos: Tensor,
    freqs_sin: Tensor,
    scale: Tensor,
) -> Tensor:
    """`rms_norm_rope` of `x [B, S, H, D]` in fp32, divided by `scale [1]` fp32, in e4m3.

    A scale that is never too small follows from the weights, `rope_scale`, so that no pass looks
    for the largest value.
    """
    weights = img_weight.float(), txt_weight.float()
    return rounded(rms_norm_rope(x.float(), *weights, freqs_cos, freqs_sin) * (1 / scale))


def by_ranks(x: Tensor, packing: Packing) -> Tensor:
    """The heads of `x [B, S, H, D]`, those of one rank after another's: `[B, S·H, D]`."""
    return torch.cat([part.flatten(1, 2) for part in x.split(packing.counts, dim=2)], dim=1)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`GELU(weight·x + bias)`, tanh approximation: `[B, S, C]` -> `[B, S, N]`."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def pair_linear(
    first: Tensor, second: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None
) -> Tensor:
    """`weight·[first, second] + bias` as two products, without the concatenation.

    `first [B, S, K]`, `second [B, S, M]`, `weight [N, K + M]`, `bias [N]` -> `[B, S, N]`.
    """
    weight_first, weight_second = weight.split([first.shape[-1], second.shape[-1]], dim=1)
    parts = F.linear(first, weight_first, bias), F.linear(second, weight_second)
    return torch.add(*parts, out=_unless_grad(out))


def fuse_cached(current: Tensor, cached: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`SiLU(weight·[current, cached] + bias)`, the predictor's front end (DisCa §3.2).

    `current, cached [B, S, C]`, `weight [C, 2C]`, `bias [C]` -> `[B, S, C]`.
    """
    return F.silu(pair_linear(current, cached, weight, bias))


def head(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The final layer: `layer_norm_modulate`, then a linear: `[B, S, C]` -> patches `[B, S, N]`."""
    return F.linear(layer_norm_modulate(x, shift, scale), weight, bias)


def unpatchify(x: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Tokens `[B, T·H·W, C·p·q·r]` to latents `[B, C, T·p, H·q, W·r]` ("nthwcopq->nctohpwq")."""
    x = x.unflatten(1, grid).unflatten(-1, (-1, *patch))
    x = x.permute(0, 4, 1, 5, 2, 6, 3, 7)  # B C T p H q W r
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def euler_step(
    latents: Tensor,
    patches: Tensor,
    uncond: Tensor | None,
    scale: float,
    dt: Tensor,
    grid: tuple[int, int, int],
    patch: tuple[int, int, int],
) -> Tensor:
    """`latents + velocity·dt` in fp32 (rectified flow, arXiv 2209.03003), of velocity patches.

    `latents [B, C, T, H, W]` fp32, `patches` and `uncond [B, S, N]`, `dt []` fp32 (negative). With
    `uncond` the velocity is guided, `uncond + scale·(patches − uncond)` (arXiv 2207.12598).
    """
    velocity = patches.float()
    if uncond is not None:
        velocity = torch.lerp(uncond.float(), velocity, scale)
    return latents + unpatchify(velocity, grid, patch) * dt


def finite_differences(factors: Tensor, newest: Tensor, numbers: Tensor) -> None:
    """Replace the divided differences of orders 0 to K − 1 by those that end in `newest`.

    `factors [K, ...]` in place; order i becomes (order i − 1 now − order i − 1 before) / distance,
    or 0 where it is not among the `known` first ones. `numbers [2]` fp32: distance and known.
    """
    distance, known = numbers.unbind()
    *lower, last = factors.unbind()
    newer = newest
    for order, factor in enumerate(lower):
        difference = ((newer.float() - factor.float()) / distance).to(newest.dtype)
        factor.copy_(newer)
        newer = torch.where(known > order + 1, difference, 0.0)
    last.copy_(newer)


def forecast(factors: Tensor, coefficients: Tensor) -> Tensor:
    """`Σ coefficients[i]·factors[i]`, like `factors[0]`: Taylor or Hermite by its coefficients.

    `factors [K, ...]`, `coefficients [K]` fp32.
    """
    if coefficients.ndim == 1 and coefficients.dtype == factors.dtype:  # in one pass over memory
        return torch.mv(factors.flatten(1).T, coefficients).view(factors.shape[1:])
    total = coefficients[0] * factors[0].float()
    for factor, coefficient in zip(factors[1:], coefficients[1:], strict=True):
        total = total + coefficient * factor.float()
    return total.to(factors.dtype)


def forecast_channels(factors: Tensor, coefficients: Tensor) -> Tensor:
    """`Σ coefficients[i]·factors[i]`, like `factors[0]`, with coefficients for each channel.

    `factors [K, ..., C]`, `coefficients [K, C]` fp32.
    """
    return forecast(factors, coefficients)


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: KeyBlocks,
    lengths: Tensor | None = None,
    heads: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of queries to the blocks of keys that `plan` has for them; `q, k, v [B, S, H, D]`.

    Keys from row `lengths [B]` on are padding. Heads `[B, H]` that are false, and rows that are no
    queries of the plan, stay as they are in `out`. A query without keys gets zeros.
    """
    out = torch.zeros_like(q) if out is None else out
    for sample, head in plan.alike(*q.shape[:3:2], lengths is not None, heads is not None):
        if heads is not None and not heads[sample, head]:
            continue
        length = None if lengths is None else int(lengths[sample])
        tensors = [each[sample, :, head] for each in (q, k, v)]
        for number in range(len(plan.queries)):
            group = plan.group(sample.start, head.start, number, length)
            out[sample, group.queries, head] = _attended(*tensors, group).to(out.dtype)
    return out


def _attended(q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
    """Attention of a group's queries of `q [B, S, H, D]` to its keys, in fp32."""
    rows = group.queries, group.keys, group.keys
    q, k, v = (
        each.index_select(1, which).transpose(1, 2).float()
        for each, which in zip((q, k, v), rows, strict=True)
    )
    bias = group.bias
    if group.zeros:  # as one more key, whose exponential counts as often
        bias = q.new_zeros(1, k.shape[2]) if bias is None else bias.to(q.device)
        bias = F.pad(bias, (0, 1), value=math.log(group.zeros))
        k, v = (F.pad(each, (0, 0, 0, 1)) for each in (k, v))
    if not k.shape[2]:
        return torch.zeros_like(q).transpose(1, 2)
    bias = None if bias is None else bias.expand(q.shape[2], -1).to(q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
