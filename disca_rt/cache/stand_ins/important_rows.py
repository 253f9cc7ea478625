"""The rows that have changed most computed anew, the others kept: TokenCache (arXiv 2409.18523).

The paper trains a small network per block to say how important a token is; neither code nor weights
are public. Reconstructed: a row's importance is the mean |change| that is expected of it. With
`importance`, a file of networks, of each block that one gives from its kept value; without, the
change between the last two full steps. It is multiplied by the steps since the row was computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import File
from ..site import Level
from ..stand_in import Kept, Moment, Place, StandInDefaults, TensorSpec


@dataclass(frozen=True)
class ImportantRows(StandInDefaults):
    """Keeps the value, and importance and age `[B, S]` of each row.

    `fresh_ratio` of the rows are computed anew, of each rank's own (a choice). `importance`: a
    safetensors file with "block.branch.w1 [H, C]", "b1 [H]", "w2 [1, H]", "b2 [1]": a network
    w2·SiLU(w1·x + b1) + b2 of a row x.
    """

    levels: ClassVar[tuple[Level, ...]] = ("branch",)
    refreshes: ClassVar[bool] = True
    fresh_ratio: float = 0.3
    importance: File | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fresh_ratio <= 1:
            raise ValueError(f"fresh_ratio must be from 0 to 1, got {self.fresh_ratio}")
        if self.importance is not None and not Path(self.importance).is_file():
            raise ValueError(f"importance must be a safetensors file, got {self.importance!r}")

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        of_row = like._replace(shape=like.shape[:2], dtype=torch.float32)
        return like, of_row, of_row

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """1 where nothing is kept yet, else 0."""
        return (float(not kept_at),)

    def row_count(self, place: Place, rows: int) -> int:
        return int(self.fresh_ratio * rows)

    def out(self, kept: Kept) -> Tensor | None:
        """None: the change is taken from the value kept before."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        buffer, importance, age = kept
        # Before the first one nothing was: what an earlier sample left there is not to be read.
        before = torch.where(at.numbers[0] > 0, torch.zeros_like(buffer), buffer)
        importance.copy_(self._importance(before, value, at.place))
        buffer.copy_(value)
        age.zero_()

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0]

    def refresh(self, kept: Kept, compute: Callable[[Tensor], Tensor], at: Moment) -> Tensor:
        buffer, importance, age = kept
        age.add_(1)
        count = self.row_count(at.place, buffer.shape[1])
        if count:
            rows = (importance * age).topk(count).indices
            buffer.scatter_(1, rows[..., None].expand(-1, -1, buffer.shape[2]), compute(rows))
            age.scatter_(1, rows, 0)
        return buffer

    def _importance(self, before: Tensor, value: Tensor, place: Place) -> Tensor:
        if self.importance is None:
            return (value - before).float().abs().mean(-1)
        network = _networks(self.importance, value.device)
        names = [f"{place[0]}.{place[1]}.{part}" for part in ("w1", "b1", "w2", "b2")]
        if missing := [name for name in names if name not in network]:
            raise ValueError(
                f"importance {self.importance} has no tensor {missing[0]}: each branch has w1, b1, "
                "w2 and b2; without the option the last change is taken"
            )
        w1, b1, w2, b2 = (network[name] for name in names)
        return F.linear(F.silu(F.linear(value.float(), w1, b1)), w2, b2)[..., 0]


@lru_cache(maxsize=4)
def _networks(path: str, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a file, fp32 on `device`; ValueError where it cannot be read."""
    from safetensors import SafetensorError  # a package that a bench does without
    from safetensors.torch import load_file

    try:
        return {key: each.float().to(device) for key, each in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"importance {path} cannot be read: {error}") from error
