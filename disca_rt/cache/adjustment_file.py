"""Files of Block Caching's scales and shifts, and of the table that they were trained for."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..config import DiTConfig
from .learned_file import digest_of, read_learned, write_learned

FORMAT = "disca_rt block adjustment"
KINDS = "computed", "scale", "shift"


class Adjustment(NamedTuple):
    """Block Caching's numbers: `scale` and `shift` `[steps, blocks, C]`, and a digest of them.

    `computed[step][block]` says of a step's blocks which are not replaced.
    """

    computed: tuple[tuple[bool, ...], ...]
    scale: Tensor
    shift: Tensor
    digest: str


def read_adjustment(path: str, config: DiTConfig) -> Adjustment:
    """The adjustment in a file for a model of these sizes; else ValueError."""
    learned, _ = read_learned(path, FORMAT, "scales and shifts", KINDS, config)
    computed = learned["computed"] > 0.5
    blocks, steps = config.double + config.single, len(computed)
    for kind in KINDS:
        wanted = [steps, blocks, *[config.hidden] * (kind != "computed")]
        if [*learned[kind].shape] != wanted or not steps:
            got = [*learned[kind].shape]
            raise ValueError(f"{kind} of {path} must be {wanted} for this model, got {got}")
    if not computed[0].all():
        raise ValueError(f"computed of {path} must be 1 in the first step: nothing is kept before")
    rows = tuple(map(tuple, computed.tolist()))
    return Adjustment(rows, learned["scale"], learned["shift"], digest_of(*learned.values()))


def write_adjustment(path: Path, tensors: Mapping[str, Tensor], config: DiTConfig) -> None:
    """A file of `computed [steps, blocks]`, 1 or 0, `scale` and `shift` `[steps, blocks, C]`."""
    write_learned(path, FORMAT, tensors, config, "block-caching")
