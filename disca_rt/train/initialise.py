"""Where training starts: fresh weights, or another model's, such that nothing is lost.

Deepening, a first guidance embedder and a first r embedder all change no output, and a predictor
begins as reuse of what is cached.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from ..attention.protocol import Attention
from ..config import DiTConfig, PredictorConfig
from ..kernels.ops import Ops
from ..models.build import build_dit, build_predictor
from ..models.dit import DiT
from ..models.predictor import FusionMLP, Predictor
from .grow import copy_into_deeper
from .optimizers import starts_at_zero

FUSION_SCALE = 2.0**14  # of hidden states before SiLU: exact, and its inverse is in fp16's range


def fresh_dit(
    config: DiTConfig, seed: int, attention: Attention | None = None, ops: Ops | None = None
) -> DiT:
    """A DiT whose blocks are the identity and whose velocity is zero, fp32, on the CPU."""
    dit = build_dit(config, ops, attention, device="cpu")
    initialise(dit, seed)
    return dit


def fresh_predictor(
    config: PredictorConfig, seed: int, attention: Attention | None = None, ops: Ops | None = None
) -> Predictor:
    """A predictor that gives back what is cached, fp32, on the CPU: its blocks are the identity.

    SiLU(z) is z/2 where z is small, so its fusions divide by FUSION_SCALE before it and multiply
    after it. They learn their weights without these factors (`Scaled`): hidden states are large,
    and an optimizer's steps in the weights themselves would be, too.
    """
    predictor = build_predictor(config, ops, attention, device="cpu")
    initialise(predictor, seed)
    for module in predictor.modules():
        if isinstance(module, FusionMLP):
            _pass_cached(module)
    return predictor


class Scaled(nn.Module):
    """A parametrization: the tensor is `factor` times what is learned."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, learned: Tensor) -> Tensor:
        return self.factor * learned

    def right_inverse(self, tensor: Tensor) -> Tensor:
        return tensor / self.factor


@torch.no_grad()
def _pass_cached(fusion: FusionMLP) -> None:
    first, last = fusion[0], fusion[2]
    hidden = len(first.weight)
    first.weight.zero_()
    first.weight[:, hidden:].fill_diagonal_(1 / FUSION_SCALE)
    last.weight.zero_().fill_diagonal_(2 * FUSION_SCALE)
    register_parametrization(first, "weight", Scaled(1 / FUSION_SCALE))
    register_parametrization(first, "bias", Scaled(1 / FUSION_SCALE))
    register_parametrization(last, "weight", Scaled(2 * FUSION_SCALE))


def deepened(
    dit: DiT,
    config: DiTConfig,
    seed: int,
    attention: Attention | None = None,
    ops: Ops | None = None,
) -> DiT:
    """`dit` with new single-stream blocks, up to those of `config`, that are the identity."""
    if replace(dit.config, single=config.single) != config:
        raise ValueError(f"start must differ in its single-stream blocks only, got {dit.config}")
    deeper = fresh_dit(config, seed, attention, ops)
    copy_into_deeper(dit, deeper)
    return deeper


def with_guidance(
    teacher: DiT, seed: int, attention: Attention | None = None, ops: Ops | None = None
) -> DiT:
    """`teacher` with a `guidance_in` that adds nothing yet: the same velocity at any scale."""
    return _extended(teacher, replace(teacher.config, guidance_embed=True), seed, attention, ops)


def with_r(
    teacher: DiT, seed: int, attention: Attention | None = None, ops: Ops | None = None
) -> DiT:
    """`teacher` with a `time_r_in` that adds nothing yet: the same velocity at any r, exactly.

    Its last layer is zero. HunyuanVideo 1.0 averages the embeddings of t and r, so that of t is
    doubled; 1.5 adds them.
    """
    student = _extended(teacher, replace(teacher.config, meanflow=True), seed, attention, ops)
    if teacher.config.family == "hunyuan-video-1.0":
        with torch.no_grad():
            for parameter in student.time_in.mlp[2].parameters():
                parameter.mul_(2)
    return student


def _extended(
    teacher: DiT, config: DiTConfig, seed: int, attention: Attention | None, ops: Ops | None
) -> DiT:
    student = fresh_dit(config, seed, attention, ops)
    new = student.load_state_dict(teacher.state_dict(), strict=False).missing_keys
    assert all(name.startswith(("guidance_in.", "time_r_in.")) for name in new)
    for name, parameter in student.named_parameters():
        if name in new and ".mlp.2." in name:  # the embedder's last layer
            nn.init.zeros_(parameter)
    return student


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Truncated-normal linears; zero modulation and head: every block starts as the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name.endswith("bias") or starts_at_zero(name):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)
        else:
            fan_in = parameter[0].numel()
            nn.init.trunc_normal_(parameter, std=fan_in**-0.5, generator=generator)
