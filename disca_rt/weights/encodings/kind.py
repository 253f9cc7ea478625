"""The seam of encodings: what a way of encoding weights says of a checkpoint it is found in."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from .stored import Encoding, Scaled

FP8_DTYPES = ("float8_e4m3fn", "float8_e5m2")


class Coded(NamedTuple):
    """The encoded tensor `source` of a file, and the parameter `target` of ours that it fills."""

    source: str
    target: str


class Kind(Protocol):
    """One way of encoding weights: what people are told it is, and the dtypes that values have."""

    name: str
    dtypes: tuple[str, ...]

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Tell whether the weights are encoded so, by the names and dtypes of tensors and files."""

    def helpers(self, checkpoint: Checkpoint) -> set[str]:
        """The tensors that are no weights, but belong to the encoding."""

    def encodings(self, checkpoint: Checkpoint, coded: Sequence[Coded]) -> dict[str, Encoding]:
        """The encoding of each of `coded` by its source; `checkpoint` has the helpers still.

        Raises CheckpointError where what the encoding takes is not there.
        """


def fp8_tensors(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors in FP8."""
    return [name for name, spec in checkpoint.specs.items() if spec.dtype in FP8_DTYPES]


def scaled(
    checkpoint: Checkpoint, where: object, scales: Mapping[str, Tensor | None]
) -> dict[str, Encoding]:
    """The encoding of each tensor, FP8 with its scale in `scales`, by name.

    CheckpointError names the tensors whose scale is missing, not finite or of another shape.
    """
    usable = {name: _usable(scale, checkpoint.specs[name].shape) for name, scale in scales.items()}
    if wrong := [name for name, scale in usable.items() if scale is None]:
        raise CheckpointError(
            f"{where} has no usable scale (one finite number, or one a row) for {len(wrong)} FP8 "
            f"tensors: it is damaged, or not of {checkpoint.path.name}: {', '.join(wrong)}"
        )
    return {name: Scaled(scale) for name, scale in usable.items() if scale is not None}


def _usable(scale: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """`scale` as `[]` or `[N, 1]`, or None."""
    if scale is None or not scale.is_floating_point():
        return None
    if scale.numel() not in (1, shape[0]) or not torch.isfinite(scale.float()).all():
        return None
    if scale.numel() == 1:
        return scale.reshape(())
    return scale.reshape(-1, 1) if len(shape) == 2 else None
