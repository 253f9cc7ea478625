"""Bytes of a part once it is loaded, by its headers alone."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from ..weights.checkpoint import open_checkpoint
from .language import language_parts
from .parts import ModelFolder, PartName

ITEM_SIZES: Mapping[str, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
DECODED = 2  # of a value that is stored in a byte: FP8 becomes bf16


def part_bytes(folder: ModelFolder, name: PartName, dtype: torch.dtype | None = None) -> int:
    """Bytes of the weights of `name` in `dtype`, by default the file's; 0 where it is not there.

    Layers that nothing reads are not counted, for they are not loaded.
    """
    if name not in folder.parts:
        return 0
    path = folder.parts[name].path
    if name != "text_encoder":
        return _bytes(path, None, dtype)
    weights, named, _ = language_parts(path, folder.family)
    sources = {source for own, source in named.items() if not own.endswith("norm.weight")}
    seen = {n for n in weights.checkpoint.entries if "vision" in n or "projector" in n}
    return _bytes(path, sources | seen if folder.text_sees_image else sources, dtype)


def _bytes(path: Path, names: Collection[str] | None, dtype: torch.dtype | None) -> int:
    specs = open_checkpoint(path).specs
    chosen = specs if names is None else {name: specs[name] for name in names if name in specs}
    return sum(
        math.prod(spec.shape) * (dtype.itemsize if dtype else ITEM_SIZES.get(spec.dtype, DECODED))
        for spec in chosen.values()
    )
