"""Scales of the official FP8 weights: `X_map.pt` beside `X.pt`, module name -> scale.

A weight is its FP8 value times the scale of its linear layer, both in the model's dtype.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .assign import Copy
from .checkpoint import Checkpoint
from .errors import CheckpointError
from .files import INDEX_SUFFIX, SCALE_MAP_SUFFIX
from .pickle_file import load_mapped

FP8 = "float8_e4m3fn"


def load_scales(checkpoint: Checkpoint, copies: Iterable[Copy]) -> dict[str, Tensor]:
    """The scale of every FP8 tensor in `copies`, by its name in the file.

    Raises CheckpointError where the map is not there, or not of this checkpoint.
    """
    specs = checkpoint.specs
    coded = [copy for copy in copies if specs[copy.source].dtype == FP8]
    if not coded:
        return {}
    path = scale_map_path(checkpoint.path)
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint.path} holds {len(coded)} FP8 tensors, but their scale map {path} is not "
            "there; put it beside the weights"
        )
    scale_map = load_mapped(path)
    if not isinstance(scale_map, Mapping):
        raise CheckpointError(f"{path} must map module names to scales; download it again")
    scales = {copy.source: _find(scale_map, copy) for copy in coded}
    wrong = [name for name, scale in scales.items() if not _is_scale(scale)]
    if wrong:
        raise CheckpointError(
            f"{path} has no usable scale (one finite number) for {len(wrong)} FP8 "
            f"tensors; it is not of {checkpoint.path.name}: {', '.join(wrong)}"
        )
    return scales


def scale_map_path(path: Path) -> Path:
    """Where the scales of the checkpoint `path` are."""
    name = Path(path.name.removesuffix(INDEX_SUFFIX)).stem
    return path.with_name(name + SCALE_MAP_SUFFIX)


def _find(scale_map: Mapping[Any, Any], copy: Copy) -> Tensor | None:
    for module in (copy.source, copy.target):
        scale = scale_map.get(module.rpartition(".")[0])
        if isinstance(scale, (Tensor, float)):
            return torch.as_tensor(scale)
    return None


def _is_scale(scale: Tensor | None) -> bool:
    return (
        scale is not None
        and scale.is_floating_point()
        and scale.numel() == 1
        and bool(torch.isfinite(scale.float()).all())
    )
