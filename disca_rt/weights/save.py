"""Writing weights in the official key layout, with the `config.json` that tensors cannot tell."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import DiTConfig

READABLE = 0o644  # safetensors creates files for their owner only


def save_safetensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, config: DiTConfig
) -> None:
    """Write `tensors` as `dtype` to `path`, and `config.json` beside it.

    Both are whole or absent: they are written under another name and moved into place together.
    `config` is the DiT's, also where the tensors are its predictor's.
    """
    weights_partial = path.with_name(path.name + ".partial")
    config_path = path.with_name("config.json")
    config_partial = config_path.with_name("config.json.partial")
    contiguous = {name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}
    try:
        save_file(contiguous, weights_partial)
        weights_partial.chmod(READABLE)
        config_partial.write_text(json.dumps(describe(config), indent=1) + "\n")
        os.replace(weights_partial, path)
        os.replace(config_partial, config_path)
    finally:
        weights_partial.unlink(missing_ok=True)
        config_partial.unlink(missing_ok=True)


def describe(config: DiTConfig) -> dict:
    """The content of `config.json`: every field that the model has."""
    return {name: value for name, value in asdict(config).items() if value is not None}
