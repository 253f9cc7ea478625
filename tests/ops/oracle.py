"""Every op in fp64, from its definition; the arguments are the op's own."""

from itertools import product

import torch
from torch import Tensor

from disca_rt.kernels.key_blocks import Corners, KeyBlocks

EPS = 1e-6


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _normed(x) * weight.double() + bias.double()


def layer_norm_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return _normed(x) * (1 + scale.double()[:, None]) + shift.double()[:, None]


def gate_residual(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    return x.double() + gate.double()[:, None] * branch.double()


def gated_sum(x: Tensor, *branches_and_gates: Tensor) -> Tensor:
    pairs = zip(branches_and_gates[::2], branches_and_gates[1::2], strict=True)
    return x.double() + sum(gate.double()[:, None] * branch.double() for branch, gate in pairs)


def gate_residual_layer_norm_modulate(
    x: Tensor, branch: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    residual = gate_residual(x, branch, gate)
    return residual, layer_norm_modulate(residual, shift, scale)


def rms_norm_rope(
    x: Tensor, img_weight: Tensor, txt_weight: Tensor, freqs_cos: Tensor, freqs_sin: Tensor
) -> Tensor:
    x, rotated = x.double(), len(freqs_cos)
    normed = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    img, txt = normed[:, :rotated] * img_weight.double(), normed[:, rotated:] * txt_weight.double()
    pairs = torch.view_as_complex(img.unflatten(-1, (-1, 2)).contiguous())
    turn = torch.complex(freqs_cos.double(), freqs_sin.double())[:, None]
    return torch.cat([torch.view_as_real(pairs * turn).flatten(-2), txt], dim=1)


def rms_norm_rope_pair(q: Tensor, k: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    *weights, cos, sin = others
    return rms_norm_rope(q, *weights[:2], cos, sin), rms_norm_rope(k, *weights[2:], cos, sin)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return gelu(x.double() @ weight.double().T + bias.double())


def gelu(z: Tensor) -> Tensor:
    z = z.double()
    return 0.5 * z * (1 + ((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)).tanh())


def pair_linear(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([first, second], -1).double() @ weight.double().T + bias.double()


def joint_linear(img: Tensor, txt: Tensor, *weights: Tensor) -> Tensor:
    img_weight, img_bias, txt_weight, txt_bias = (each.double() for each in weights)
    return torch.cat(
        [img.double() @ img_weight.T + img_bias, txt.double() @ txt_weight.T + txt_bias], 1
    )


def fuse_cached(current: Tensor, cached: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    z = pair_linear(current, cached, weight, bias)
    return z * z.sigmoid()


def head(x: Tensor, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return layer_norm_modulate(x, shift, scale) @ weight.double().T + bias.double()


def euler_step(
    latents: Tensor,
    patches: Tensor,
    uncond: Tensor | None,
    scale: float,
    dt: Tensor,
    grid: tuple[int, int, int],
    patch: tuple[int, int, int],
) -> Tensor:
    velocity = patches.double()
    if uncond is not None:
        velocity = uncond.double() + scale * (velocity - uncond.double())
    channels = latents.shape[1]
    velocity = velocity.reshape(len(latents), *grid, channels, *patch)
    velocity = torch.einsum("nthwcopq->nctohpwq", velocity).reshape(latents.shape)
    return latents.double() + velocity * dt.double()


def forecast(factors: Tensor, coefficients: Tensor) -> Tensor:
    return torch.einsum("k...,k->...", factors.double(), coefficients.double())


def forecast_channels(factors: Tensor, coefficients: Tensor) -> Tensor:
    return torch.einsum("k...c,kc->...c", factors.double(), coefficients.double())


def _normed(x: Tensor) -> Tensor:
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()


def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: KeyBlocks,
    lengths: Tensor | None = None,
    *others: None,
) -> Tensor:
    """All scores, of which the plan's pairs count."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / q.shape[-1] ** 0.5
    counted, zeros = torch.zeros_like(scores), torch.zeros_like(scores[..., :1])
    for b, h, g in product(range(len(q)), range(q.shape[2]), range(len(plan.queries))):
        tables = (
            None if each is None else each[b % len(each), h % each.shape[1]] for each in plan[1:5]
        )
        keys, blocks, counts, of_zeros = tables
        chosen = blocks[g, : counts[g]].long()
        rows, queries = keys[chosen].flatten().long(), plan.queries[g].long()
        pairs = (queries >= 0)[:, None] & (rows >= 0)
        pairs &= rows < (k.shape[1] if lengths is None else lengths[b])
        if plan.corners is not None:
            pairs &= _is_inside(plan.corners, g, chosen)
        counted[b, h].index_put_((queries[:, None], rows), pairs.double(), accumulate=True)
        if of_zeros is not None:
            zeros[b, h, queries[queries >= 0]] = of_zeros[g].double()
    weights = scores.exp() * counted
    total = (weights.sum(-1, keepdim=True) + zeros).clamp(min=1e-300)
    return torch.einsum("bhqk,bkhd->bqhd", weights / total, v.double())


def _is_inside(corners: Corners, group: int, blocks: Tensor) -> Tensor:
    """Whether keys' places are in queries' boxes, in one coordinate, or keys are in all boxes."""
    (low, high), (nearest, farthest) = corners.query[:, group], corners.key[:, blocks].flatten(1)
    mask = ~corners.guards
    is_low_enough = (nearest & mask) <= (high & mask)[:, None]
    return is_low_enough & ((farthest & mask) >= (low & mask)[:, None])
