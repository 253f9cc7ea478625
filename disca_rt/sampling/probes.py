"""Measures what rules ask for: sums over this rank's rows, on the device. Knows no rule."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..cache.plan import STORED, Probe
from ..cache.policy import Policy
from ..models.blocks import DoubleStreamBlock
from ..models.dit import DiT
from ..models.row_groups import layer_norm_modulate
from ..tokens import StepContext

Norm = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Elementwise `(numerator, denominator)` fp32 of a tensor and what it is compared with, fp32."""

NORMS: dict[str, Norm] = {
    "l1": lambda now, before: ((now - before).abs(), before.abs()),
    "l2": lambda now, before: ((now - before).square(), before.square()),
    "relative": lambda now, before: _over_ones((now - before).abs() / (now.abs() + 1e-8)),
    "size": lambda now, before: (now.abs(), before.abs()),
    "row_size": lambda now, before: _over_ones(_row_norms(now) / _row_norms(before)),
}
"""Σ|a−b| over Σ|b|; the same of squares; the mean of |a−b|/|a|; Σ|a| over Σ|b|; the mean over rows
of |a|₂/|b|₂."""


def _row_norms(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def _over_ones(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Parts whose mean is wanted."""
    return parts, torch.ones_like(parts)


def check_probe(probe: Probe, policy: Policy, blocks: int, passes: int) -> None:
    """Raises ValueError where a sample has no such tensor, or nothing to compare it with."""
    allowed = {"slot": ("stand-in",), "patches": (*STORED, "conditional")}
    against = allowed.get(probe.of, STORED)
    most = len(policy.slots) - 1 if probe.of == "slot" else blocks
    for name, value, known in (
        ("since", probe.since, range(max(1, probe.block * (probe.of == "residual")))),
        ("slot", probe.slot, (None, *range(len(policy.slots)))),
        ("norm", probe.norm, tuple(NORMS)),
        ("against", probe.against, against),
        ("which_pass", probe.which_pass, range(passes)),
        ("block", probe.block, range(most + 1)),
    ):
        if value not in known:
            shown = f"from 0 to {known[-1]}" if isinstance(known, range) and known else list(known)
            raise ValueError(f"{name} of {probe} must be {shown}, got {value!r}")


def sums(probe: Probe, now: Tensor, before: Tensor, context: StepContext | None) -> Tensor:
    """The two sums of a norm, `[2]` fp64, without padding rows where `context` tells of any.

    `context` goes with tensors of all joint rows of this rank, or of its image rows.
    """
    valid = None if context is None else _valid_rows(now, context)
    parts = NORMS[probe.norm](now.float(), before.float())
    if valid is not None:
        parts = tuple(part * valid for part in parts)
    return torch.stack([part.sum(dtype=torch.float64) for part in parts])


def _valid_rows(tokens: Tensor, context: StepContext) -> Tensor | None:
    """A mask of the rows of `tokens [B, S, ...]` that are no padding, ones after S; None: all."""
    layout = context.layout
    if layout.lengths is None or tokens.shape[1] <= layout.img_len:
        return None
    places = torch.arange(tokens.shape[1], device=tokens.device) + layout.start
    valid = places < layout.lengths[:, None]
    return valid.reshape(*valid.shape, *(1,) * (tokens.dim() - 2))


def tensor_of_pass(
    probe: Probe, dit: DiT, tokens: Mapping[int, Tensor], context: StepContext
) -> Tensor:
    """The tensor that a probe looks at in a pass; `tokens` are those after numbers of blocks."""
    img = context.layout.img_len
    if probe.of == "modulated":
        return _modulated(dit, tokens[0][:, :img], context)
    if probe.of == "image":
        return tokens[probe.block][:, :img]
    if probe.of == "residual":
        return tokens[probe.block][:, :img] - tokens[probe.since][:, :img]
    return tokens[probe.block]


def _modulated(dit: DiT, img: Tensor, context: StepContext) -> Tensor:
    """The image rows as the first block's attention sees them (TeaCache, arXiv 2411.19108)."""
    block = dit.blocks[0]
    mod = block.img_mod if isinstance(block, DoubleStreamBlock) else block.modulation
    shift, scale = mod(context.vec)[:2]
    return layer_norm_modulate(dit.ops, img, shift, scale)
