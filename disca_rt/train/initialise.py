"""Weights that training starts from: fresh ones, or another model's, such that nothing is lost.

Deepening, a first guidance embedder and a first r embedder all change no output, and a predictor
begins as reuse of what is cached. A shallow model learns what is common to all prompts at a third
of the price (progressive stacking, Gong et al. 2019); a block whose modulation is zero has zero
gates, so that new ones are the identity. `seams` are attention and ops, as `build_dit` takes them.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from ..config import DiTConfig, PredictorConfig
from ..models.build import build_dit, build_predictor
from ..models.dit import DiT
from ..models.predictor import FusionMLP, Predictor
from .optimizers import starts_at_zero

FUSION_SCALE = 2.0**14  # of hidden states before SiLU: exact, and its inverse is in fp16's range


def fresh_dit(config: DiTConfig, seed: int, **seams: Any) -> DiT:
    """Make a DiT whose blocks are the identity and whose velocity is zero, fp32, on the CPU."""
    dit = build_dit(config, device="cpu", **seams)
    initialise(dit, seed)
    return dit


def fresh_predictor(config: PredictorConfig, seed: int, **seams: Any) -> Predictor:
    """Make a predictor that gives back what is cached, fp32, on the CPU: blocks are the identity.

    SiLU(z) is z/2 where z is small, so its fusions divide by FUSION_SCALE before it and multiply
    after it. They learn their weights without these factors (`Scaled`): hidden states are large,
    and an optimizer's steps in the weights themselves would be, too.
    """
    predictor = build_predictor(config, device="cpu", **seams)
    initialise(predictor, seed)
    for module in predictor.modules():
        if isinstance(module, FusionMLP):
            _pass_cached(module)
    return predictor


class Scaled(nn.Module):
    """A parametrization in which a weight is `factor` times the tensor that is learned."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, learned: Tensor) -> Tensor:
        return self.factor * learned

    def right_inverse(self, tensor: Tensor) -> Tensor:
        return tensor / self.factor


@torch.no_grad()
def _pass_cached(fusion: FusionMLP) -> None:
    """Set a fusion of (current, cached) such that it gives back the cached half."""
    first, last = fusion[0], fusion[2]
    hidden = len(first.weight)
    first.weight.zero_()
    first.weight[:, hidden:].fill_diagonal_(1 / FUSION_SCALE)
    last.weight.zero_().fill_diagonal_(2 * FUSION_SCALE)
    register_parametrization(first, "weight", Scaled(1 / FUSION_SCALE))
    register_parametrization(first, "bias", Scaled(1 / FUSION_SCALE))
    register_parametrization(last, "weight", Scaled(2 * FUSION_SCALE))


def deepened(dit: DiT, config: DiTConfig, seed: int, **seams: Any) -> DiT:
    """Copy `dit` into one with as many single-stream blocks as `config`, new ones the identity.

    ValueError where the two differ in anything else, or `config` has fewer blocks.
    """
    if replace(dit.config, single=config.single) != config:
        raise ValueError(f"start must differ in its single-stream blocks only, got {dit.config}")
    few, many = dit.config.single, config.single
    if few > many:
        raise ValueError(f"a model cannot grow from {few} single-stream blocks to {many}")
    deeper, moved = fresh_dit(config, seed, **seams), {}
    for name, tensor in dit.state_dict().items():
        stack, _, rest = name.partition(".")
        if stack == "single_blocks":  # spread evenly, the first one first
            index, rest = rest.split(".", 1)
            name = f"{stack}.{int(index) * many // few}.{rest}"
        moved[name] = tensor
    deeper.load_state_dict(deeper.state_dict() | moved)
    return deeper


def with_guidance(teacher: DiT, seed: int, **seams: Any) -> DiT:
    """Copy `teacher` and add a `guidance_in` without effect: the same velocity at any scale."""
    return _extended(teacher, replace(teacher.config, guidance_embed=True), seed, **seams)


def with_r(teacher: DiT, seed: int, **seams: Any) -> DiT:
    """Copy `teacher` and add a `time_r_in` without effect: the same velocity at any r, exactly.

    The new embedder's last layer is zero. HunyuanVideo 1.0 averages the embeddings of t and r, so
    that of t is doubled; 1.5 adds them.
    """
    student = _extended(teacher, replace(teacher.config, meanflow=True), seed, **seams)
    if teacher.config.traits.averages_r:
        with torch.no_grad():
            for parameter in student.time_in.mlp[2].parameters():
                parameter.mul_(2)
    return student


def _extended(teacher: DiT, config: DiTConfig, seed: int, **seams: Any) -> DiT:
    student = fresh_dit(config, seed, **seams)
    new = student.load_state_dict(teacher.state_dict(), strict=False).missing_keys
    assert all(name.startswith(("guidance_in.", "time_r_in.")) for name in new)
    for name, parameter in student.named_parameters():
        if name in new and ".mlp.2." in name:  # the embedder's last layer
            nn.init.zeros_(parameter)
    return student


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Draw truncated-normal linears; modulation and head are zero: blocks start as the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name.endswith("bias") or starts_at_zero(name):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)
        else:
            fan_in = parameter[0].numel()
            nn.init.trunc_normal_(parameter, std=fan_in**-0.5, generator=generator)
