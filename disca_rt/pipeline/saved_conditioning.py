"""Conditioning saved by an encoder elsewhere: a .safetensors file with the fields' own names.

`negative_` before a name makes it the unconditional side of classifier-free guidance. The file may
also hold `latents` (the initial noise) and `guidance` (1000 · scale, as the DiT is fed). A model
that embeds its guidance leaves `negative_*` out unless a classifier-free scale is asked for.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ..conditioning import Conditioning
from ..weights.files.safetensors import open_safetensors

NAMES = tuple(field.name for field in fields(Conditioning))
NEGATIVE = "negative_"
USED = {*NAMES, "latents", "guidance"}
SMALLEST_GUIDANCE = 100  # a scale of 0.1; below it somebody wrote the scale itself
STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MASK_DTYPES = (*STATE_DTYPES, torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64)


@dataclass(frozen=True)
class SavedConditioning:
    """Contents of a file; `latents [B, C, T, H, W]` and `guidance_scale` are None if lacking."""

    positive: Conditioning
    negative: Conditioning | None
    latents: Tensor | None
    guidance_scale: float | None


def load_conditioning(source: str | Path) -> SavedConditioning:
    """Read the file `source`; ValueError names an unreadable file, a missing or an odd tensor."""
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"conditioning {path} is not a file")
    file = open_safetensors(path)
    used = [name for name in file.specs if name.removeprefix(NEGATIVE) in USED]
    for name in used:
        _check_tensor(path, name, *file.specs[name])
    for name in ("text_states", "text_mask"):
        if name not in used:
            raise ValueError(f"conditioning {path} lacks {name}; it has {sorted(file.specs)}")
    tensors = {name: file.read(name) for name in used}
    positive = Conditioning(**{name: tensors.get(name) for name in NAMES})
    return SavedConditioning(
        positive=positive,
        negative=_negative(path, tensors, positive),
        latents=tensors.get("latents"),
        guidance_scale=_guidance_scale(path, tensors.get("guidance"), positive.batch),
    )


def _check_tensor(path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    if 0 in shape or (not shape and name != "guidance"):
        raise ValueError(f"conditioning {path}: {name} has no samples, its shape is {list(shape)}")
    is_mask = name.endswith("_mask")
    if getattr(torch, dtype, None) not in (MASK_DTYPES if is_mask else STATE_DTYPES):
        kind = "a mask (bool, integer or float)" if is_mask else "float32, bfloat16 or float16"
        raise ValueError(f"conditioning {path}: {name} must be {kind}, got torch.{dtype}")


def _guidance_scale(path: Path, guidance: Tensor | None, batch: int) -> float | None:
    if guidance is None:
        return None
    values = set(guidance.flatten().tolist())
    if len(values) != 1 or guidance.numel() not in (1, batch):
        raise ValueError(
            f"conditioning {path}: guidance must be one value, the same for all {batch} samples, "
            f"got {guidance.tolist()}"
        )
    (value,) = values
    if 0 < value < SMALLEST_GUIDANCE:
        raise ValueError(
            f"conditioning {path}: guidance is 1000 times the scale, got {value:g}, a scale of "
            f"{value / 1000:g}; write {1000 * value:g} for a scale of {value:g}"
        )
    return value / 1000


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
