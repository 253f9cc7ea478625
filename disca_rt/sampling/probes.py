"""Measures what rules ask for: sums over this rank's rows, on the device. Knows no rule."""

from collections.abc import Callable, Mapping
from itertools import pairwise, repeat

import torch
from torch import Tensor, nn

from ..cache.decision_network import Network
from ..cache.decision_network import features as features_of
from ..cache.moving_rows import moving_rows
from ..cache.plan import STORED, Probe
from ..cache.policy import Policy
from ..models.dit import DiT
from ..models.prepared import Prepared
from ..models.row_groups import layer_norm_modulate
from ..sharding import Sharding
from ..tokens import StepContext, TokenLayout

AT_ONCE = 2**23  # elements: fp32 copies of 34 MB, which a GPU's cache holds, whatever is measured

Norm = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Elementwise `(numerator, denominator)` fp32 of a tensor and what it is compared with, fp32."""

NORMS: dict[str, Norm] = {
    "l1": lambda now, before: ((now - before).abs(), before.abs()),
    "l2": lambda now, before: ((now - before).square(), before.square()),
    "l2_of_now": lambda now, before: ((now - before).square(), now.square()),
    "relative": lambda now, before: _over_ones(_relative(now, before)),
    "relative_squares": lambda now, before: _over_ones(_relative(now, before).square()),
    "size": lambda now, before: (now.abs(), before.abs()),
    "row_size": lambda now, before: _over_ones(_row_norms(now) / _row_norms(before)),
}
"""Σ|a−b| over Σ|b|; the same of squares; these over Σa²; the means of |a−b|/|a| and of its square;
Σ|a| over Σ|b|; the mean over rows of |a|₂/|b|₂."""


OF_ALL_ROWS = {"slot": ("motion",), "tokens": ("moving",)}
"""Norms that need the image rows of all ranks, by what they are of."""


def _relative(now: Tensor, before: Tensor) -> Tensor:
    return (now - before).abs() / (now.abs() + 1e-8)


def _row_norms(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def _over_ones(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Parts whose mean is wanted."""
    return parts, torch.ones_like(parts)


def check_probe(probe: Probe, policy: Policy, blocks: int, passes: int) -> None:
    """Raises ValueError where a sample has no such tensor, or nothing to compare it with."""
    allowed = {
        "slot": ("stand-in",),
        "patches": (*STORED, "conditional"),
        "score": ("head",),
        "wanted": ("network",),
    }
    against = allowed.get(probe.of, STORED)
    slots = range(len(policy.slots))
    for name, value, known in (
        ("since", probe.since, range(max(1, probe.after * (probe.of == "residual")))),
        ("slot", probe.slot, slots if probe.of in ("slot", "score") else range(1)),
        ("kept_by", probe.kept_by, (None, *slots)),
        ("norm", probe.norm, (*NORMS, *OF_ALL_ROWS.get(probe.of, ()))),
        ("against", probe.against, against),
        ("which_pass", probe.which_pass, range(passes)),
        ("after", probe.after, range(blocks + 1)),
    ):
        if value not in known:
            shown = f"from 0 to {known[-1]}" if isinstance(known, range) and known else list(known)
            raise ValueError(f"{name} of {probe} must be {shown}, got {value!r}")


def sums(
    probe: Probe, now: Tensor, before: Tensor, context: StepContext | None, is_text: bool = False
) -> Tensor:
    """The two sums of a norm, `[2]` fp64, without padding rows where `context` tells of any.

    `context` goes with tensors of all joint rows of this rank, of its image rows, or `is_text`.
    """
    valid = None if context is None else _valid_rows(now, context, is_text)
    rows = max(1, AT_ONCE * now.shape[1] // max(1, now.numel()))
    pieces = (each.split(rows, dim=1) for each in (now, before))
    masks = repeat(None) if valid is None else valid.split(rows, dim=1)
    norm = NORMS[probe.norm]
    return sum(_sums(norm, *piece, mask) for *piece, mask in zip(*pieces, masks, strict=False))


def _sums(norm: Norm, now: Tensor, before: Tensor, valid: Tensor | None) -> Tensor:
    parts = norm(now.float(), before.float())
    if valid is not None:
        parts = tuple(part * valid for part in parts)
    return torch.stack([part.sum(dtype=torch.float64) for part in parts])


def score(
    block: nn.Module, is_mlp: bool, tokens: Tensor, context: StepContext, head: Tensor
) -> Tensor:
    """<head, z> summed over image rows, and their number, `[2]` fp64 (LazyDiT, arXiv 2412.12444).

    z is `tokens [B, S, C]` as they would enter attention, or the MLP, of a block.
    """
    img = tokens[:, : context.layout.img_len]
    entered = modulated(block, img, context, is_mlp)
    total = (entered.float() @ head.to(entered.device)).sum(dtype=torch.float64)
    return torch.stack([total, total.new_tensor(img.shape[0] * img.shape[1])])


def wanted(network: Network, latents: Tensor, prepared: Prepared) -> Tensor:
    """Each output of `network` summed over samples, and their number, `[outputs, 2]` fp64."""
    features = features_of(latents, prepared.text_states, prepared.text_lengths)
    total = network(features).sum(0, dtype=torch.float64)
    return torch.stack([total, torch.full_like(total, len(latents))], dim=1)


def moving(
    probe: Probe, now: Tensor, before: Tensor, sharding: Sharding, layout: TokenLayout
) -> Tensor:
    """The number of image rows of all ranks that move, and of all of them, `[2]` fp64."""
    moves = moving_rows(now, before, probe.threshold, sharding, layout).double()
    return torch.stack([moves.sum(), torch.ones_like(moves).sum()])


def motion(rows: Tensor, layout: TokenLayout) -> Tensor:
    """The change from frame to frame of image rows `[B, S_img, C]` of all ranks, `[2]` fp64.

    Σ|a−b| over Σ|a| + Σ|b|, of all neighbouring frames a and b (AdaCache, arXiv 2411.02397).
    """
    frames = rows.unflatten(1, (layout.grid[0], -1)).unbind(1)
    none = rows.new_zeros(2, dtype=torch.float64)
    return sum((_motion(*pair) for pair in pairwise(frames)), none)


def _motion(sooner: Tensor, later: Tensor) -> Tensor:
    sooner, later = sooner.float(), later.float()
    parts = (later - sooner).abs(), later.abs(), sooner.abs()
    change, *sizes = (part.sum(dtype=torch.float64) for part in parts)
    return torch.stack([change, sum(sizes)])


def _valid_rows(tokens: Tensor, context: StepContext, is_text: bool) -> Tensor | None:
    """A mask of the rows of `tokens [B, S, ...]` that are no padding, ones after S; None: all."""
    layout = context.layout
    if layout.lengths is None or (tokens.shape[1] <= layout.img_len and not is_text):
        return None
    first = layout.start + (layout.img_len if is_text else 0)
    places = torch.arange(tokens.shape[1], device=tokens.device) + first
    valid = places < layout.lengths[:, None]
    return valid.reshape(*valid.shape, *(1,) * (tokens.dim() - 2))


def tensor_of_pass(
    probe: Probe, dit: DiT, tokens: Mapping[int, Tensor], context: StepContext
) -> Tensor:
    """The tensor that a probe looks at in a pass; `tokens` are those after numbers of blocks."""
    img = context.layout.img_len
    if probe.of == "modulated":
        return modulated(dit.blocks[0], tokens[0][:, :img], context)  # TeaCache's m
    if probe.of == "image":
        return tokens[probe.after][:, :img]
    if probe.of == "residual":
        return tokens[probe.after][:, :img] - tokens[probe.since][:, :img]
    return tokens[probe.after]


def modulated(block: nn.Module, img: Tensor, context: StepContext, is_mlp: bool = False) -> Tensor:
    """Image rows as a block's attention, or its MLP, sees them."""
    is_double = hasattr(block, "img_mod")  # which may be wrapped, for training
    mod = (block.img_mod if is_double else block.modulation).of_step(context)
    shift, scale = mod[3:5] if is_double and is_mlp else mod[:2]
    return layer_norm_modulate(block.ops, img, shift, scale)
