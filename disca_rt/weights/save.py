"""Writing weights in the official key layout, with the `config.json` that tensors cannot tell."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import DiTConfig


def save_safetensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, config: DiTConfig
) -> None:
    """Write `tensors` as `dtype` to `path` atomically, and `config.json` beside it."""
    partial = path.with_suffix(".partial")
    contiguous = {name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}
    save_file(contiguous, partial)
    os.replace(partial, path)
    described = {"hidden": config.hidden, "heads": config.heads, "rope": list(config.rope)}
    (path.parent / "config.json").write_text(json.dumps(described, indent=1) + "\n")
