"""Conditioning saved by an encoder elsewhere: a .safetensors file with the fields' own names.

`negative_` before a name makes it the unconditional side of classifier-free guidance. The file may
also hold `latents` (the initial noise) and `guidance` (1000 · scale, as the DiT is fed).
"""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..models.conditioning import Conditioning

NAMES = tuple(field.name for field in fields(Conditioning))
NEGATIVE = "negative_"


@dataclass(frozen=True)
class SavedConditioning:
    """`latents [B, C, T, H, W]` and `guidance_scale` are None where the file lacks them."""

    positive: Conditioning
    negative: Conditioning | None
    latents: Tensor | None
    guidance_scale: float | None


def load_conditioning(path: Path) -> SavedConditioning:
    """Read `path`; ValueError names a file that is not safetensors or lacks a tensor."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"conditioning {path} cannot be read as safetensors: {error}") from error
    for name in ("text_states", "text_mask"):
        if name not in tensors:
            raise ValueError(f"conditioning {path} lacks {name}; it has {sorted(tensors)}")
    positive = Conditioning(**{name: tensors.get(name) for name in NAMES})
    guidance = tensors.get("guidance")
    return SavedConditioning(
        positive=positive,
        negative=_negative(path, tensors, positive),
        latents=tensors.get("latents"),
        guidance_scale=None if guidance is None else float(guidance.flatten()[0]) / 1000,
    )


def _negative(
    path: Path, tensors: dict[str, Tensor], positive: Conditioning
) -> Conditioning | None:
    given = {name: tensors[NEGATIVE + name] for name in NAMES if NEGATIVE + name in tensors}
    if not given:
        return None
    for name in ("text_states", "text_mask"):
        if name not in given:
            raise ValueError(f"conditioning {path} has {NEGATIVE}* tensors but no {NEGATIVE}{name}")
    shared = {name: tensor for name, tensor in positive.tensors().items() if name not in given}
    if "byt5_text_mask" in shared:  # a negative prompt without glyphs has no byT5 tokens
        shared["byt5_text_mask"] = torch.zeros_like(shared["byt5_text_mask"])
    return Conditioning(**shared, **given)
