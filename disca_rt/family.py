"""The differences between families of models: a row each, and nobody compares their names.

Sizes are in `config.py`, tensor names in `weights/layouts/`, video sizes in `vae/sizes.py`.
"""

from dataclasses import dataclass
from typing import Literal

Family = Literal["hunyuan-video-1.0", "hunyuan-video-1.5"]
BlockKind = Literal["double", "single"]


@dataclass(frozen=True)
class Traits:
    """One family's row.

    `merged_qkv`: the double-stream blocks' q, k and v are one tensor. `last_blocks`: the kind of
    block that its DiT ends with and its predictor is made of. `averages_r`: the embedding of r is
    averaged with that of t, not added to it. `has_glyphs`: conditions of glyphs and vision states,
    beside the prompt's. `pools_text`: a pooled text state is always there. `token_replace`: some of
    its models take a clean first frame among the latents. `preset` samples its MeanFlow models;
    with `embeds_guidance` DisCa's presets want a model that does.
    """

    name: Family
    title: str
    merged_qkv: bool
    last_blocks: BlockKind
    averages_r: bool
    has_glyphs: bool
    pools_text: bool
    token_replace: bool
    embeds_guidance: bool
    preset: str


VIDEO_10 = Traits(
    name="hunyuan-video-1.0",
    title="HunyuanVideo 1.0",
    merged_qkv=True,
    last_blocks="single",
    averages_r=True,
    has_glyphs=False,
    pools_text=True,
    token_replace=True,
    embeds_guidance=True,
    preset="disca-n4",
)
VIDEO_15 = Traits(
    name="hunyuan-video-1.5",
    title="HunyuanVideo 1.5",
    merged_qkv=False,
    last_blocks="double",
    averages_r=False,
    has_glyphs=True,
    pools_text=False,
    token_replace=False,
    embeds_guidance=False,
    preset="disca-1.5",
)

FAMILIES: dict[str, Traits] = {row.name: row for row in (VIDEO_10, VIDEO_15)}
