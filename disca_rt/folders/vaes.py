"""The VAEs of both families as diffusers' classes, by diffusers' names or official ones.

Of 1.0 the official names are diffusers' own, under `vae.`; of 1.5 a table tells them apart.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..family import FAMILIES, VIDEO_10, VIDEO_15, Family
from ..vae.sizes import SIZES, VideoSizes, sizes_of
from ..weights.errors import CheckpointError
from .weights import Weights, build, config_of, fill

if TYPE_CHECKING:
    from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLHunyuanVideo15

ANCHOR = "decoder.conv_in.conv.weight"
OTHERS = re.compile(r"(loss|discriminator|model_ema)\.")  # of training

# Official names -> diffusers', of 1.5.
OFFICIAL_15: tuple[tuple[str, str], ...] = (
    (r"\.(down|up)\.(\d+)\.block\.(\d+)\.", r".\1_blocks.\2.resnets.\3."),
    (r"\.(down|up)\.(\d+)\.(down|up)sample\.", r".\1_blocks.\2.\3samplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
)
# Official keys of a config.json -> diffusers'.
CONFIG_KEYS = {
    "time_compression_ratio": "temporal_compression_ratio",
    "ffactor_temporal": "temporal_compression_ratio",
    "ffactor_spatial": "spatial_compression_ratio",
}
# Blocks are of one kind, which official files call by other names; their number is the widths'.
BLOCKS = {"down_block_types": "HunyuanVideoDownBlock3D", "up_block_types": "HunyuanVideoUpBlock3D"}


class Vae(NamedTuple):
    """A VAE: its class, its official names, and the groups of its norms, which no tensor shows."""

    model: str
    renames: tuple[tuple[str, str], ...]
    groups: int


VAES: dict[Family, Vae] = {
    VIDEO_10.name: Vae("AutoencoderKLHunyuanVideo", (), groups=32),
    VIDEO_15.name: Vae("AutoencoderKLHunyuanVideo15", OFFICIAL_15, groups=1),
}


def load_vae(
    path: Path,
    family: Family,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> "AutoencoderKLHunyuanVideo | AutoencoderKLHunyuanVideo15":
    """The VAE of `family`; its `config` has the sizes and the scaling factor of latents.

    Raises CheckpointError where the tensors are not those of such a VAE.
    """
    return fill(*_built(path, family), device, dtype)


def vae_sizes(path: Path, family: Family, latent_channels: int) -> VideoSizes:
    """Size rules of the VAE at `path`, by its configuration; the family's own without one."""
    told = {CONFIG_KEYS.get(key, key): value for key, value in config_of(path).items()}
    usual = SIZES[family]
    side = told.get("spatial_compression_ratio", usual.side_factor)
    time = told.get("temporal_compression_ratio", usual.time_factor)
    return sizes_of(family, latent_channels, int(side), int(time))


def vae_skeleton(path: Path, family: Family, dtype: torch.dtype | None = None) -> Any:
    """The VAE that `load_vae` would load, on the meta device: its sizes without its weights."""
    module, weights, named = _built(path, family)
    return module.to(dtype or weights.dtype(named))


def _built(path: Path, family: Family) -> tuple[Any, Weights, dict[str, str]]:
    """The module on the meta device, and the tensors in the file by its names."""
    import diffusers

    kind = VAES[family]
    make = getattr(diffusers, kind.model)
    weights = Weights.open(path, f"VAE of {FAMILIES[family].title}")
    named = {_renamed(n, kind.renames): source for n, source in _own_names(weights).items()}
    accepted = inspect.signature(make.__init__).parameters
    sizes = _told(path, accepted) or _sizes(weights, named, kind)
    return build(weights, lambda: make(**sizes)), weights, named


def _own_names(weights: Weights) -> dict[str, str]:
    """The VAE's tensors in a file that may hold the rest of its training under other prefixes."""
    prefix = weights.prefix(ANCHOR)
    if not prefix:
        return weights.under("", OTHERS)
    return weights.below(prefix)


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _told(path: Path, accepted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the class that the configuration tells, in its own words or official."""
    told = config_of(path)
    if told.get("shift_factor"):
        raise CheckpointError(
            f"{path} shifts its latents (shift_factor {told['shift_factor']}), which is not read"
        )
    named = {CONFIG_KEYS.get(key, key): value for key, value in told.items()}
    named = {key: value for key, value in named.items() if key not in BLOCKS}
    widths = named.get("block_out_channels")
    if isinstance(widths, list):
        named |= {key: (kind,) * len(widths) for key, kind in BLOCKS.items()}
    return {key: named[key] for key in named if key in accepted}


def _sizes(weights: Weights, named: Mapping[str, str], kind: Vae) -> dict[str, Any]:
    """Sizes by shapes, where no configuration tells them."""
    first = [
        re.fullmatch(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.conv\.weight", name)
        for name in named
    ]
    blocks = sorted((int(m[1]), int(m[2])) for m in first if m)
    widths = tuple(
        weights.shape(named[f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight"])[0]
        for i in sorted({i for i, _ in blocks})
    )
    if any(width % kind.groups for width in widths):
        raise CheckpointError(
            f"{weights.path}: its tensors cannot tell the groups of its norms; put its config.json "
            f"beside it, as {weights.path.with_suffix('.json').name}"
        )
    return {
        "latent_channels": weights.shape(named[ANCHOR])[1],
        "block_out_channels": widths,
        "layers_per_block": 1 + max((j for _, j in blocks), default=0),
    }
