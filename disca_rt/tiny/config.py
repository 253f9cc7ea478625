"""The embedded model's shape: HunyuanVideo 1.0 made deep and narrow.

18 blocks of width 96, so that a predicted step (two blocks and a fusion) is a small part of a full
one, as at 13B; 8 heads, so that sequence parallelism has something to divide.
"""

from ..config import DiTConfig
from .codec import LATENT_CHANNELS
from .prompts import TEXT_DIM, TEXT_DIM_2

TINY = DiTConfig(
    in_channels=LATENT_CHANNELS,
    hidden=96,
    heads=8,
    double=2,
    single=16,
    rope=(4, 4, 4),
    text_dim=TEXT_DIM,
    text_dim_2=TEXT_DIM_2,
)
