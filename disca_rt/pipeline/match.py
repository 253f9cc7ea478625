"""The rules by which a sample is equal to diffusers' or to the authors' own, for one seed.

Each of the three programs draws noise, cuts pictures, encodes prompts and tiles the VAE in its own
way; a row says which way each goes.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..family import VIDEO_10, VIDEO_15, Family
from ..vae.buckets import Rule as BucketRule
from .noise import NoiseRule

CropRule = Literal["official", "diffusers", "short side", "stretch"]
Match = Literal["disca", "diffusers", "official"]


class PictureRule(NamedTuple):
    """Which size a picture's video gets, and how the picture is made as large (`images.cover`).

    `bucket` None: the variant's own size, whatever the picture's shape.
    """

    bucket: BucketRule | None
    crop: CropRule


class Rules(NamedTuple):
    """One program's ways: noise, pictures, prompts (`encoders.rules`) and tiles (`vae.tiles`).

    `image_share` of the picture's latents is mixed into the noise by image-to-video of 1.0.
    """

    noise: NoiseRule
    pictures: Mapping[Family, PictureRule]
    encoding: str
    tiling: str
    image_share: float = 0.0


NEAREST = PictureRule("nearest", "official")
MATCHES: dict[Match, Rules] = {
    "disca": Rules("disca", {VIDEO_10.name: NEAREST, VIDEO_15.name: NEAREST}, "disca", "official"),
    "diffusers": Rules(
        "diffusers",
        {
            VIDEO_10.name: PictureRule(None, "stretch"),
            VIDEO_15.name: PictureRule("diffusers", "diffusers"),
        },
        "diffusers",
        "diffusers",
        0.001,
    ),
    "official": Rules(
        "official",
        {VIDEO_10.name: PictureRule("below", "short side"), VIDEO_15.name: NEAREST},
        "official",
        "official",
    ),
}


def get_rules(name: str) -> Rules:
    """The row called `name`; ValueError lists the known ones."""
    if name not in MATCHES:
        raise ValueError(f"match must be one of {sorted(MATCHES)}, got {name!r}")
    return MATCHES[name]
