"""Shapes of a forward that nobody runs, by --model, --size and --text-tokens."""

import argparse
from typing import NamedTuple

from ..config import DiTConfig, get_model_config
from ..tiny.clips import FRAMES, HEIGHT, WIDTH
from ..tiny.codec import PixelUnshuffleCodec
from ..tiny.config import TINY
from ..vae.sizes import SIZES

DEFAULT_SIZE = 704, 704, 129  # the paper's
DEFAULT_TEXT_TOKENS = {"tiny": 16}  # its longest prompt; 256 for the others


class ModelSize(NamedTuple):
    """A model, its `latent_shape` (C, T, H, W) and its valid text tokens."""

    dit: DiTConfig
    latent_shape: tuple[int, int, int, int]
    text_tokens: int


def model_size(args: argparse.Namespace) -> ModelSize:
    """Shapes that the flags of `add_model_arguments` give; ValueError names an illegal one."""
    text_tokens = DEFAULT_TEXT_TOKENS.get(args.model, 256)
    if args.text_tokens is not None:
        text_tokens = args.text_tokens
    if text_tokens < 1:
        raise ValueError(f"--text-tokens must be at least 1, got {text_tokens}")
    if args.model == "tiny":
        width, height, frames = args.size or (WIDTH, HEIGHT, FRAMES)
        return ModelSize(
            TINY, PixelUnshuffleCodec().latent_shape(frames, height, width), text_tokens
        )
    dit = get_model_config(args.model)
    width, height, frames = args.size or DEFAULT_SIZE
    return ModelSize(dit, SIZES[dit.family].latent_shape(frames, height, width), text_tokens)
