"""Full and predicted step without arithmetic: weights and activations on the meta device.

What remains of a step is the host's work, and which tensors live when.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from disca_rt.attention.local import LocalAttention
from disca_rt.cache.method import Parts
from disca_rt.cache.policies import build_policy
from disca_rt.config import DiTConfig, predictor_config
from disca_rt.graphs.runner import GraphRunner
from disca_rt.kernels.ops import get_ops
from disca_rt.models.build import build_dit, build_predictor
from disca_rt.models.fp8_table import Fp8
from disca_rt.models.prepared import FirstFrame, Prepared
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.sampling.guidance import DEFAULT_GUIDANCE, Guidance
from disca_rt.schedule import shifted

META = torch.device("meta")


class NoAttention(LocalAttention):
    """Attention that only allocates its output, with no kernel's own temporaries."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = replace(self.backend, attend=lambda q, k, v, valid: torch.empty_like(q))


class MetaStep(NamedTuple):
    """Steps as functions: each runs one from latents to latents."""

    full: Callable[[], object]
    predicted: Callable[[], object]


def meta_step(
    config: DiTConfig,
    grid: tuple[int, int, int],
    text: int,
    ops: str = "reference",
    fp8: Fp8 = None,
    graphs: GraphRunner | None = None,
) -> MetaStep:
    """Steps of a 1.0 model of `config` on `grid` patches and `text` tokens."""
    built = {
        "ops": get_ops(ops, "cuda" if ops == "triton" else META),
        "attention": NoAttention(),
        "dtype": torch.bfloat16,
    }
    dit = build_dit(config, **built, fp8=fp8)
    predictor = build_predictor(predictor_config(config), **built, fp8=fp8)
    policy = build_policy("disca", Parts(config, built["ops"], predictor), (0,))
    image = grid[0] * grid[1] * grid[2]
    sides = [g * p for g, p in zip(grid, config.patch, strict=True)]
    latents = torch.empty(1, config.in_channels, *sides, device=META)
    tables = torch.empty(2, image, config.head_dim // 2, device=META)
    prepared = Prepared(
        text_states=torch.empty(1, text, config.text_dim, dtype=torch.bfloat16, device=META),
        text_lengths=None,
        pooled=torch.empty(1, config.hidden, dtype=torch.bfloat16, device=META),
        condition_tokens=None,
        order=None,
        cond_latents=None,
        lengths=None,
        freqs_cos=tables[0],
        freqs_sin=tables[1],
        grid=grid,
        first=_first_frame(config, latents, torch.bfloat16) if config.token_replace else None,
    )
    embedded = DEFAULT_GUIDANCE if config.guidance_embed else None
    denoiser = Denoiser(dit, graphs)
    steps = shifted(2, 5.0), policy, Guidance(embedded)
    loop = denoiser.loop(latents.shape, [prepared], *steps)

    def run(index: int) -> object:
        tensors = loop.tensors(index, latents, (0,) * index)
        return loop.compute(loop.plans[index], {}, tensors)

    return MetaStep(partial(run, 0), partial(run, 1))


def _first_frame(config: DiTConfig, latents: torch.Tensor, dtype: torch.dtype) -> FirstFrame:
    vec = torch.empty(1, config.hidden, dtype=dtype, device=META)
    return FirstFrame(torch.empty_like(latents[:, :, :1]), vec)
