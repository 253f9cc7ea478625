"""Workloads of `disca-rt bench`: a model, a video size and numbers of condition tokens.

Presets are data, one row each. Inputs are random where no encoder is at hand: the time depends on
shapes alone, if only values are like real ones. Knows no runtime and no clock.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioning import Conditioning
from ..config import MODELS, DiTConfig
from ..tiny.clips import FRAMES, HEIGHT, WIDTH
from ..tiny.codec import PixelUnshuffleCodec
from ..tiny.config import TINY
from ..vae.sizes import SIZES, VideoSizes

EMBEDDED = "embedded"
DEFAULT_MODEL = "hunyuan-video-meanflow"
TEXT_TOKENS = 256


@dataclass(frozen=True)
class Workload:
    """Model and `size` (width, height, frames) to run, with numbers of valid condition tokens."""

    name: str
    model: str
    size: tuple[int, int, int]
    text: int = TEXT_TOKENS
    byt5: int = 0
    vision: int = 0

    @property
    def tokens(self) -> int:
        return self.text + self.byt5 + self.vision


PRESETS = {
    workload.name: workload
    for workload in (
        # The distilled model and its predictor that the package carries, guided by a scale.
        Workload(EMBEDDED, "tiny", (WIDTH, HEIGHT, FRAMES), text=16),
        Workload("704x704x129", DEFAULT_MODEL, (704, 704, 129)),
        Workload("720p", DEFAULT_MODEL, (1280, 720, 129)),
        Workload("480p-i2v", "hunyuan-video-1.5-meanflow", (848, 480, 121), 256, 15, 729),
    )
}

CONFIGS = {"tiny": TINY, **MODELS}


def get_workload(name: str, model: str | None = None) -> Workload:
    """Workload called `name`: a preset, or a size such as 640x480x61, of `model` where given.

    ValueError lists the presets, or the models.
    """
    if model is not None and model not in CONFIGS:
        raise ValueError(f"--model must be one of {sorted(CONFIGS)}, got {model!r}")
    preset = PRESETS.get(name)
    if preset is not None and model in (None, preset.model):
        return preset
    if preset is not None:
        name = "x".join(map(str, preset.size))
    if not re.fullmatch("[0-9]{1,5}x[0-9]{1,5}x[0-9]{1,5}", name):
        raise ValueError(
            f"the workload must be one of {sorted(PRESETS)} or WIDTHxHEIGHTxFRAMES, got {name!r}"
        )
    width, height, frames = map(int, name.split("x"))
    alike = next(row for row in PRESETS.values() if _family(row.model) == _family(model))
    model = model or alike.model
    tokens = alike.text, alike.byt5, alike.vision
    return Workload(f"{model} {name}", model, (width, height, frames), *tokens)


def _family(model: str | None) -> str:
    model = model or DEFAULT_MODEL
    return model if model == "tiny" else CONFIGS[model].family


def codec_of(workload: Workload) -> PixelUnshuffleCodec | VideoSizes:
    """Codec, or size rules, of the workload's model."""
    if workload.model == "tiny":
        return PixelUnshuffleCodec()
    return SIZES[CONFIGS[workload.model].family]


def latent_shape(workload: Workload) -> tuple[int, int, int, int]:
    """Shape (C, T, H, W) of the latents; ValueError names a size that the model does not take."""
    width, height, frames = workload.size
    return codec_of(workload).latent_shape(frames, height, width)


def random_conditioning(
    config: DiTConfig, workload: Workload, latent_shape: tuple[int, int, int, int], seed: int = 1
) -> Conditioning:
    """Conditioning of one sample, random and without padding, on the CPU."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(1, *size, generator=generator)

    conditions = {}
    if config.text_dim_2 is not None:
        conditions["text_states_2"] = random(config.text_dim_2)
    if config.traits.has_glyphs:
        conditions |= {
            "byt5_text_states": random(workload.byt5, config.byt5_dim),
            "byt5_text_mask": torch.ones(1, workload.byt5, dtype=torch.long),
            "vision_states": random(workload.vision, config.vision_dim),
        }
    if config.condition_channels:
        conditions["cond_latents"] = random(config.condition_channels, *latent_shape[1:])
    if config.token_replace:
        conditions["first_frame_latents"] = random(config.in_channels, 1, *latent_shape[2:])
    return Conditioning(
        text_states=random(workload.text, config.text_dim),
        text_mask=torch.ones(1, workload.text, dtype=torch.long),
        **conditions,
    )
