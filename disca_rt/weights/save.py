"""Writing weights in the official key layout, with the `config.json` that tensors cannot tell."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import write_whole
from ..config import DiTConfig


def save_safetensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype, config: DiTConfig
) -> None:
    """Write `tensors` as `dtype` to `path`, and `config.json` beside it; each whole or not at all.

    `config` is the DiT's, also where the tensors are its predictor's.
    """
    contiguous = {name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}
    described = json.dumps(describe(config), indent=1) + "\n"
    write_whole(path, lambda partial: save_file(contiguous, partial))
    write_whole(path.with_name("config.json"), lambda partial: partial.write_text(described))


def describe(config: DiTConfig) -> dict:
    """The content of `config.json`: every field that the model has."""
    return {name: value for name, value in asdict(config).items() if value is not None}
