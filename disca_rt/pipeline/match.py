"""The rules by which a sample is equal to diffusers' or to the authors' own, for one seed.

Each of the three programs draws noise, cuts pictures, encodes prompts and tiles the VAE in its own
way; a row says which way each goes.
"""

from typing import Literal, NamedTuple

from .noise import NoiseRule

CropRule = Literal["disca", "diffusers", "official"]
Match = Literal["disca", "diffusers", "official"]


class Rules(NamedTuple):
    """One program's ways: noise, pictures, prompts (`encoders.rules`) and tiles (`vae.tiles`).

    `image_share` of the picture's latents is mixed into the noise by image-to-video of 1.0.
    """

    noise: NoiseRule
    crop: CropRule
    encoding: str
    tiling: str
    image_share: float = 0.0


MATCHES: dict[Match, Rules] = {
    "disca": Rules("disca", "disca", "disca", "official"),
    "diffusers": Rules("diffusers", "diffusers", "diffusers", "diffusers", 0.001),
    "official": Rules("official", "official", "official", "official"),
}


def get_rules(name: str) -> Rules:
    """The row called `name`; ValueError lists the known ones."""
    if name not in MATCHES:
        raise ValueError(f"match must be one of {sorted(MATCHES)}, got {name!r}")
    return MATCHES[name]
