"""Benchmark of our full step against diffusers' classes: same weights and inputs, fp32, eager.

diffusers saves fresh random weights, our loader reads them, and the outputs are compared before
anything is timed. No token is padding, so that both do the same work: neither gains from the
padding that ours drops and diffusers' masks. Ours has the ops and the attention that it has on a
CPU by itself: in C++.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from disca_rt.attention.local import LocalAttention
from disca_rt.config import DiTConfig, predictor_config
from disca_rt.kernels.ops import default_ops, get_ops
from disca_rt.measure.diffusers_models import diffusers_model, diffusers_step
from disca_rt.measure.harness import Comparison, Contender
from disca_rt.measure.workloads import Workload, random_conditioning
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.tiny.clips import FRAMES, HEIGHT, WIDTH
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.tiny.config import TINY
from disca_rt.weights.load import load_dit
from disca_rt.work.flops import image_tokens, step_flops

TOLERANCE = 1e-5
CPU = torch.device("cpu")


class StepShape(NamedTuple):
    """Model and input of one step: `latent_shape` (C, T, H, W), and numbers of tokens.

    `goal` is the share of diffusers' time that ours is to take.
    """

    config: DiTConfig
    latent_shape: tuple[int, int, int, int]
    tokens: Workload
    goal: float = 0.85


EMBEDDED = StepShape(
    TINY,
    PixelUnshuffleCodec().latent_shape(FRAMES, HEIGHT, WIDTH),
    Workload("embedded", "", (0, 0, 0), text=16),
    goal=0.70,
)
MID_10 = StepShape(
    DiTConfig(hidden=512, heads=4, double=2, single=4, text_dim=1024),
    (16, 5, 16, 16),
    Workload("mid-size 1.0", "", (0, 0, 0), text=64),
)
MID_15 = StepShape(
    DiTConfig(
        family="hunyuan-video-1.5",
        in_channels=16,
        embed_channels=33,
        patch=(1, 1, 1),
        hidden=512,
        heads=4,
        double=4,
        single=0,
        text_dim=1024,
        text_dim_2=None,
        byt5_dim=256,
        byt5_hidden=2048,  # fixed in diffusers' class
        vision_dim=256,
    ),
    (16, 5, 8, 8),
    Workload("mid-size 1.5", "", (0, 0, 0), text=48, byt5=8, vision=8),
)


def full_step(shape: StepShape) -> Comparison:
    """Comparison of diffusers, ours with `prepare` in every step, and ours with it outside."""
    reference = diffusers_model(shape.config)
    dit = _ours(reference)
    assert dit.config == shape.config, f"loaded {dit.config}, expected {shape.config}"
    conditioning = random_conditioning(shape.config, shape.tokens, shape.latent_shape)
    step = StepInputs(torch.tensor([900.0]))
    latents = torch.randn(1, *shape.latent_shape, generator=torch.Generator().manual_seed(2))
    forward = diffusers_step(reference, conditioning)
    prepared = dit.prepare(conditioning, latents.shape)

    def theirs() -> Tensor:
        return forward(latents, step)

    def whole_step() -> Tensor:
        return dit(latents, step, dit.prepare(conditioning, latents.shape))

    # 1.5: byT5 and vision tokens are counted as text, which makes the count 2 % too large.
    flops = step_flops(
        shape.config, predictor_config(shape.config), shape.latent_shape, shape.tokens.tokens
    ).full
    return Comparison(
        name=f"full step, {shape.tokens.name}",
        shape=_describe(shape),
        dtype="float32",
        contenders=[
            Contender(f"diffusers {type(reference).__name__}", theirs, flops),
            Contender("ours, prepare in the step", whole_step, flops, goal=shape.goal),
            Contender(
                "ours, prepare outside",
                lambda: dit(latents, step, prepared),
                flops,
                "as in a sample, where the conditioning is prepared once for all steps",
                goal=shape.goal,
            ),
        ],
        samples=40,
        relative_difference=check_equal(whole_step, theirs),
    )


def _ours(reference: nn.Module) -> DiT:
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        chosen = {"ops": get_ops(default_ops(CPU), CPU), "attention": LocalAttention("auto")}
        return load_dit(Path(folder), dtype=torch.float32, **chosen)


def check_equal(ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> float:
    """Relative difference of the outputs; RuntimeError above the tolerance."""
    with torch.inference_mode():
        difference = relative_difference(ours(), theirs())
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"ours differs from diffusers' by {difference:.1e}, more than {TOLERANCE}: these are "
            "not the same computation, so nothing was timed"
        )
    return difference


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """‖a − b‖ / ‖b‖, in fp64."""
    return float((actual.double() - expected).norm() / expected.double().norm())


def _describe(shape: StepShape) -> dict[str, object]:
    config, tokens = shape.config, shape.tokens
    described = {
        "model": tokens.name,
        "batch": 1,
        "latents": list(shape.latent_shape),
        "image tokens": image_tokens(config, shape.latent_shape),
        "text tokens": tokens.text,
        "byT5 tokens": tokens.byt5,
        "vision tokens": tokens.vision,
        "hidden": config.hidden,
        "heads": config.heads,
        "blocks": f"{config.double}+{config.single}",
    }
    return {name: value for name, value in described.items() if value != 0}
