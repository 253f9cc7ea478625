"""Sizes of the embedded model and how it is sampled: HunyuanVideo 1.0 made deep and narrow.

17 blocks of width 112, so that a predicted step (two blocks and a fusion) is a small part of a full
one, as at 13B; 8 heads, so that sequence parallelism has something to divide. A patch has 48 values
of noise that every block must carry to the head: much narrower, and little width is left for else.
"""

from ..config import DiTConfig
from ..schedule import preset
from .codec import LATENT_CHANNELS
from .prompts import TEXT_DIM, TEXT_DIM_2

TINY = DiTConfig(
    in_channels=LATENT_CHANNELS,
    hidden=112,
    heads=8,
    double=1,
    single=16,
    rope=(4, 4, 6),
    text_dim=TEXT_DIM,
    text_dim_2=TEXT_DIM_2,
)

SHIFT = 5.0
SCHEDULE = preset(50, SHIFT)  # the shift of the distilled 13B model
GUIDANCE_SCALE = 4.0  # classifier-free


def takes_tiny_prompts(config: DiTConfig) -> bool:
    """Tell if a DiT is of the embedded model's text and latent widths, so that prompts fit it."""
    ours = (TEXT_DIM, TEXT_DIM_2, LATENT_CHANNELS)
    return (config.text_dim, config.text_dim_2, config.in_channels) == ours
