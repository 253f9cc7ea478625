"""Full and predicted step without arithmetic: weights and activations on the meta device.

What remains of a step is the host's work, and which tensors live when.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from disca_rt.attention.local import LocalAttention
from disca_rt.cache.disca import DisCaPolicy
from disca_rt.config import DiTConfig, predictor_config
from disca_rt.kernels.ops import get_ops
from disca_rt.models.build import build_dit, build_predictor
from disca_rt.models.dit import StepInputs
from disca_rt.models.linear import quantize_blocks
from disca_rt.models.prepared import Prepared
from disca_rt.schedule import Schedule

META = torch.device("meta")


class NoAttention(LocalAttention):
    """Attention that only allocates its output, with no kernel's own temporaries."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = lambda q, k, v, valid: torch.empty_like(q)


@dataclass(frozen=True)
class MetaStep:
    """Steps as functions: `full()` and `predicted()` return velocity patches `[1, S_img, P]`.

    Both call `compute(index, *inputs)`, the full one with step 0.
    """

    full: Callable[[], Tensor]
    predicted: Callable[[], Tensor]
    compute: Callable[..., Tensor]
    inputs: tuple[Tensor, StepInputs, Prepared]


def meta_step(
    config: DiTConfig,
    grid: tuple[int, int, int],
    text: int,
    dtype: torch.dtype = torch.bfloat16,
    ops: str = "reference",
    fp8_weights: bool = False,
) -> MetaStep:
    """Steps of a 1.0 model of `config` on `grid` patches and `text` tokens."""
    built = {"ops": get_ops(ops), "attention": NoAttention(), "dtype": dtype}
    dit = build_dit(config, **built)
    if fp8_weights:
        quantize_blocks(dit.blocks)
    policy = DisCaPolicy(build_predictor(predictor_config(config), **built))
    image = grid[0] * grid[1] * grid[2]
    sides = [g * p for g, p in zip(grid, config.patch, strict=True)]
    latents = torch.empty(1, config.in_channels, *sides, device=META)
    tables = torch.empty(2, image, config.head_dim // 2, device=META)
    prepared = Prepared(
        text_states=torch.empty(1, text, config.text_dim, dtype=dtype, device=META),
        text_lengths=None,
        pooled=torch.empty(1, config.hidden, dtype=dtype, device=META),
        condition_tokens=None,
        order=None,
        cond_latents=None,
        lengths=None,
        freqs_cos=tables[0],
        freqs_sin=tables[1],
        grid=grid,
    )
    state = policy.allocate(torch.Size([1, image + text, config.hidden]), dtype, META)
    scalar = torch.empty(1, device=META)
    scalars = StepInputs(
        scalar,
        scalar if config.meanflow else None,
        scalar.to(dtype) if config.guidance_embed else None,
    )
    schedule = list(Schedule(2, 5.0, (0,)))

    def compute(index: int, latents: Tensor, scalars: StepInputs, prepared: Prepared) -> Tensor:
        tokens, context = dit.embed(latents, scalars, prepared)
        kind = policy.decide(schedule[index], tokens, state)
        return dit.head(policy.run(kind, tokens, context, dit.blocks, state), context)

    inputs = latents, scalars, prepared
    return MetaStep(lambda: compute(0, *inputs), lambda: compute(1, *inputs), compute, inputs)
