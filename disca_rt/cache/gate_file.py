"""Files of what methods learn about branches: gates, or linear heads, by step and slot.

"gates" `[steps, slots]`, values in [0, 1] of which 1 computes (L2C, HarmoniCa), or "heads"
`[steps, slots, C]` (LazyDiT), fp32. Slots are those of `BranchPairs`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..config import DiTConfig
from .learned_file import check_steps, digest_of, read_learned, write_learned
from .placements.branches import pairs

FORMAT = "disca_rt branch gates"


class GateFile(NamedTuple):
    """The tensor of a file, and a digest of it, by which two files are told apart."""

    tensor: Tensor
    digest: str

    def check_steps(self, path: str, steps: int) -> None:
        """Raises ValueError where the file at `path` is not for `steps` steps."""
        check_steps(path, len(self.tensor), steps)


def read_gates(path: str, kind: str, config: DiTConfig) -> GateFile:
    """The "gates" or the "heads" (`kind`) in a file for a model of these sizes; else ValueError."""
    learned, _ = read_learned(path, FORMAT, kind, (kind,), config)
    _check(path, learned[kind], kind, config)
    return GateFile(learned[kind], digest_of(*learned.values()))


def write_gates(path: Path, tensors: Mapping[str, Tensor], config: DiTConfig, method: str) -> None:
    """A file of the "gates" or "heads" that `method` learned for a model of these sizes."""
    write_learned(path, FORMAT, tensors, config, method)


def _check(path: str, tensor: Tensor, kind: str, config: DiTConfig) -> None:
    slots = sum(1 for _ in pairs(config))
    shape = (slots,) if kind == "gates" else (slots, config.hidden)
    if tensor.shape[1:] != shape or len(tensor) == 0:
        wanted = ", ".join(["steps", *map(str, shape)])
        raise ValueError(f"{kind} of {path} must be [{wanted}], got {[*tensor.shape]}")
