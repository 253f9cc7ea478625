"""FP8 weights without scales: a plain cast of the weights, as the community's e4m3fn files are."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, CheckpointWarning
from .fp8_inside import MARKER
from .fp8_map import scale_map_path
from .kind import FP8_DTYPES, Coded, fp8_tensors
from .stored import PLAIN, Encoding

LOOKED_AT = 4  # tensors


class Fp8Cast:
    name = "FP8 without scales"
    dtypes = FP8_DTYPES

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return bool(fp8_tensors(checkpoint))

    def helpers(self, checkpoint: Checkpoint) -> set[str]:
        return {MARKER} & checkpoint.entries.keys()

    def encodings(self, checkpoint: Checkpoint, coded: Sequence[Coded]) -> dict[str, Encoding]:
        tensors = [checkpoint.read(each.source) for each in coded[:LOOKED_AT]]
        if all(map(_fills_its_range, tensors)):
            raise CheckpointError(
                f"{checkpoint.path} holds {len(coded)} FP8 tensors that were scaled, but has no "
                f"scales in it, and their scale map {scale_map_path(checkpoint)} is not there; put "
                "it beside the weights"
            )
        warnings.warn(
            f"{checkpoint.path}: its {len(coded)} FP8 tensors have no scales and are taken as they "
            "are, a plain cast",
            CheckpointWarning,
            stacklevel=2,
        )
        return dict.fromkeys((each.source for each in coded), PLAIN)


def _fills_its_range(tensor: Tensor) -> bool:
    """Tell whether the largest magnitude is near the dtype's, where only a scale puts it.

    Without their sign the bytes have the order of the values.
    """
    largest = (tensor.contiguous().view(torch.uint8) & 0x7F).max().view(tensor.dtype).float()
    return bool(largest > torch.finfo(tensor.dtype).max / 2)
