"""Conditioning saved by an encoder elsewhere: a .safetensors file with the fields' own names.

`negative_` before a name makes it the unconditional side of classifier-free guidance. The file may
also hold `latents` (the initial noise) and `guidance` (1000 · scale, as the DiT is fed). A model
that embeds its guidance leaves `negative_*` out unless a classifier-free scale is asked for.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..conditioning import Conditioning
from ..errors import first_line

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
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"conditioning {path} cannot be read as safetensors: {first_line(error)}"
        ) from error
    for name, tensor in tensors.items():
        if name.removeprefix(NEGATIVE) in USED:
            _check_tensor(path, name, tensor)
    for name in ("text_states", "text_mask"):
        if name not in tensors:
            raise ValueError(f"conditioning {path} lacks {name}; it has {sorted(tensors)}")
    positive = Conditioning(**{name: tensors.get(name) for name in NAMES})
    return SavedConditioning(
        positive=positive,
        negative=_negative(path, tensors, positive),
        latents=tensors.get("latents"),
        guidance_scale=_guidance_scale(path, tensors.get("guidance"), positive.batch),
    )


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise ValueError(f"conditioning {path}: {name} is empty, {list(tensor.shape)}")
    is_mask = name.endswith("_mask")
    if tensor.dtype not in (MASK_DTYPES if is_mask else STATE_DTYPES):
        kind = "a mask (bool, integer or float)" if is_mask else "float32, bfloat16 or float16"
        raise ValueError(f"conditioning {path}: {name} must be {kind}, got {tensor.dtype}")


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
