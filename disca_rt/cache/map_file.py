"""Files of linear maps in place of blocks (FastCache), and the maps of a calibration.

A safetensors file of "weight" `[blocks + 1, C, C]` and "bias" `[blocks + 1, C]`, fp32: y = W·x + b
for the tokens after each block, and last for those after all blocks, from the embedded image rows.
The metadata say for which model it is.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DiTConfig
from .calibration import Calibration, Uncalibrated
from .learned_file import digest_of, read_learned, write_learned

FORMAT = "disca_rt linear maps"
KINDS = "weight", "bias"


class Maps(NamedTuple):
    """The maps of each block and of all blocks together."""

    weight: Tensor
    bias: Tensor

    @property
    def digest(self) -> str:
        """A text by which maps of other values are told apart."""
        return digest_of(*self)

    def check(self, source: str, config: DiTConfig) -> "Maps":
        """These; ValueError where they are not a map of each block, and of all."""
        count, hidden = config.double + config.single + 1, config.hidden
        shapes = (count, hidden, hidden), (count, hidden)
        for kind, each, shape in zip(KINDS, self, shapes, strict=True):
            if tuple(each.shape) != shape:
                raise ValueError(f"{kind} of {source} must be {[*shape]}, got {[*each.shape]}")
        return self


def read_maps(path: str, config: DiTConfig) -> Maps:
    """The maps in a file for a model of these sizes; else ValueError."""
    learned = read_learned(path, FORMAT, "linear maps", KINDS, config)
    return Maps(**learned.tensors).check(path, config)


def write_maps(path: Path, maps: Maps, config: DiTConfig, method: str) -> None:
    """A file of the maps that `method` learned for a model of these sizes."""
    write_learned(path, FORMAT, maps._asdict(), config, method)


@lru_cache(maxsize=2)
def calibrated_maps(calibration: Calibration | None, config: DiTConfig) -> Maps | None:
    """The maps that were fitted in a calibration, where it has any."""
    if calibration is None:
        return None
    try:
        maps = Maps(*(calibration.tensor(f"fastcache.{kind}") for kind in KINDS))
    except Uncalibrated:
        return None
    return maps.check(calibration.source, config)


@lru_cache(maxsize=2)
def maps_on(
    path: str | None,
    calibration: Calibration | None,
    config: DiTConfig,
    digest: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Maps:
    """The maps of a file, or of a calibration, where they are used: read once.

    `digest` is theirs, so that a file that changes is another one.
    """
    maps = read_maps(path, config) if path else calibrated_maps(calibration, config)
    return Maps(*(each.to(device, dtype) for each in maps))
