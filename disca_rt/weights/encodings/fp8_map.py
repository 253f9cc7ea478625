"""The official FP8 weights: `X.pt`, and in `X_map.pt` beside it a scale by each module's name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..files.pick import scale_map_name
from ..files.pickle import load_mapped
from .kind import FP8_DTYPES, Coded, fp8_tensors, scaled
from .stored import Encoding


class Fp8Map:
    name = "FP8, its scales in a map beside it"
    dtypes = FP8_DTYPES

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return bool(fp8_tensors(checkpoint)) and scale_map_path(checkpoint).is_file()

    def helpers(self, checkpoint: Checkpoint) -> set[str]:
        return set()

    def encodings(self, checkpoint: Checkpoint, coded: Sequence[Coded]) -> dict[str, Encoding]:
        path = scale_map_path(checkpoint)
        scale_map = load_mapped(path)
        if not isinstance(scale_map, Mapping):
            raise CheckpointError(f"{path} must map module names to scales; download it again")
        return scaled(checkpoint, path, {each.source: _find(scale_map, each) for each in coded})


def scale_map_path(checkpoint: Checkpoint) -> Path:
    """The path that the scales of `checkpoint` would have."""
    return checkpoint.path.with_name(scale_map_name(checkpoint.path.name))


def _find(scale_map: Mapping[Any, Any], coded: Coded) -> Tensor | None:
    """A split file may have the map of the merged one, so either name will do."""
    for name in coded:
        scale = scale_map.get(name.rpartition(".")[0])
        if isinstance(scale, (Tensor, float)):
            return torch.as_tensor(scale)
    return None
