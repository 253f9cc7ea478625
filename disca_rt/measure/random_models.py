"""Models of full size without a checkpoint, with random weights made where they will be used.

Zeros would not do: a matrix product of them runs 13 % faster on an H200, whose power is its limit.
Activations keep a root mean square near 1, so that none overflows in 60 blocks. Knows no benchmark.
"""

from typing import TypeVar

import torch
from torch import nn

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..config import DiTConfig, predictor_config
from ..kernels.ops import Ops, get_ops
from ..models.build import build_dit, build_predictor
from ..models.fp8_table import Fp8
from ..models.linear import ALL, fp8_linears
from ..pipeline.runtime import Runtime
from ..tiny.runtime import with_tiny_prompts

M = TypeVar("M", bound=nn.Module)
BIAS_SCALE = 0.1


def random_runtime(
    config: DiTConfig,
    device: torch.device,
    dtype: torch.dtype,
    ops: str | Ops = "reference",
    attention: Attention | None = None,
    seed: int = 0,
    fp8: Fp8 = None,
) -> Runtime:
    """Runtime of a DiT of `config` and the predictor that fits it; alike on every rank.

    `fp8`: the table of layers in FP8, as of `Runtime.load`.
    """
    chosen = get_ops(ops, device) if isinstance(ops, str) else ops
    built = {"ops": chosen, "attention": attention, "dtype": dtype}
    dit = build_dit(config, **built, fp8=fp8)
    predictor = build_predictor(predictor_config(config), **built, fp8=fp8)
    models = [
        fill_randomly(m.to_empty(device=device), seed + i) for i, m in enumerate((dit, predictor))
    ]
    return with_tiny_prompts(Runtime(*models))


@torch.no_grad()
def fill_randomly(module: M, seed: int) -> M:
    """Fills `module` with weights that keep activations near 1; no bias is 0, no norm is 1."""
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        is_vector = parameter.ndim == 1
        scale = BIAS_SCALE if is_vector else parameter[0].numel() ** -0.5
        mean = 1.0 if "norm" in name and is_vector and not name.endswith("bias") else 0.0
        parameter.normal_(mean, scale, generator=generator)
    for linear in fp8_linears(module).values():
        weight = torch.empty(linear.quantized.shape, dtype=linear.bias.dtype, device=device)
        linear.quantize(ALL, weight.normal_(0.0, linear.in_features**-0.5, generator=generator))
    return module


def with_other(runtime: Runtime, ops: str, attention: str) -> Runtime:
    """Runtime with the weights of `runtime`, not copied, under other ops and another attention."""
    dit, predictor = runtime.dit, runtime.predictor
    built = {
        "ops": get_ops(ops, dit.device),
        "attention": LocalAttention(attention),
        "dtype": dit.dtype,
    }
    other = build_dit(dit.config, **built, fp8=dit.fp8)
    other = _sharing(other, dit)
    if predictor is not None:
        twin = build_predictor(predictor.config, **built, fp8=predictor.fp8)
        predictor = _sharing(twin, predictor)
    return Runtime(other, predictor, codec=runtime.codec, text_encoder=runtime.text_encoder)


def _sharing(module: M, source: nn.Module) -> M:
    module.load_state_dict(source.state_dict(), assign=True)
    return module.requires_grad_(False)
