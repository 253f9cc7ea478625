"""Some rows computed anew at random, the others kept: ToCa (arXiv 2410.05317) as on HunyuanVideo.

The authors' paper scores rows by attention maps; their code for HunyuanVideo
(Shenyi-Z/TaylorSeer, modes ToCa and DuCa) draws them at random, which is what is followed: no
attention map or norm of values is recorded there that a score could be made of, and the bonus of a
cell's best row is commented out, so there is no option of a score here. The share of fresh rows is
`fresh_ratio`·(1.5 - block/27)·0.4 in double blocks, ·1.6 in single ones. Models with more than 20
double blocks take the factor of the block at the same depth of 20 (a choice).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...config import DiTConfig
from ...kernels.ops import Ops
from ...models.row_groups import take_rows
from ..options import File, check_int
from ..row_draws import Chosen, drawn, given_rows, own, share_of
from ..site import Level
from ..stand_in import Kept, Moment, Place, StandInDefaults, TensorSpec
from .polynomial import Taylor

LAYERS, DOUBLE_BLOCKS = 27, 20  # of the code's layer factor; of its model


@dataclass(frozen=True)
class Expanded(StandInDefaults):
    """Taylor's forecast of order `max_order`, as TaylorSeer's code calls it; 0 is reuse."""

    levels: ClassVar[tuple[Level, ...]] = ("branch",)
    ops: Ops
    max_order: int = 0

    def __post_init__(self) -> None:
        check_int("max_order", self.max_order, 0, 3)

    @property
    def taylor(self) -> Taylor:
        return Taylor(self.ops, self.max_order)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return self.taylor.kept_specs(like)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        return self.taylor.numbers(kept_at, step, given)

    def out(self, kept: Kept) -> Tensor | None:
        """None: a branch is computed elsewhere."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        self.taylor.keep(kept, value, at)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        if self.max_order == 0:
            return kept[0][0]
        own = at.numbers[: self.max_order + 3]  # before those of a subclass
        return self.taylor.value(kept, at._replace(numbers=own))


@dataclass(frozen=True)
class Drawing(Expanded):
    """A base for stand-ins that compute rows anew which are drawn, or which `fresh_rows` gives."""

    refreshes: ClassVar[bool] = True
    seed: int = 0
    fresh_rows: File | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("seed", self.seed, 0, 2**31 - 1)
        if self.fresh_rows is not None:
            given_rows(self.fresh_rows)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Those of the forecast, the step, and rows where a file gives them."""
        rows = () if self.fresh_rows is None else given_rows(self.fresh_rows).numbers(step)
        return (*super().numbers(kept_at, step, given), float(step), *rows)

    def drawing_numbers(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The step, and the rows that a file gives, of this stand-in's numbers."""
        return numbers[self.max_order + 3], numbers[self.max_order + 4 :]


@dataclass(frozen=True)
class DrawnRows(Drawing):
    """`fresh_ratio` of the rows are drawn by a hash of `seed`, step, place and row.

    They are the same in all samples of a batch (a choice), and over any number of ranks.
    `fresh_rows` is a safetensors file that gives them instead: a tensor `[R]` of row numbers for
    each draw, called "step.block.branch" such as "6.0.img_mlp", and "6.0.txt_mlp" counted from the
    first text row (`row_draws.GivenRows`).
    """

    config: DiTConfig | None = None
    fresh_ratio: float = 0.10
    cache_type: str = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fresh_ratio <= 1:
            raise ValueError(f"fresh_ratio must be from 0 to 1, got {self.fresh_ratio}")
        if self.cache_type != "random":
            raise ValueError(
                f"cache_type must be random, got {self.cache_type!r}: the code's other scores need "
                "attention maps, or norms that it does not fill in for HunyuanVideo"
            )

    def row_count(self, place: Place, rows: int) -> int:
        if self.fresh_rows is not None:
            return given_rows(self.fresh_rows).count(place)
        return int(torch.tensor(self._share(place)).clamp(0, 1) * rows)  # in fp32, as the code

    def refresh(self, kept: Kept, compute: Callable[[Tensor], Tensor], at: Moment) -> Tensor:
        buffer = kept[0][0]
        rows, is_meant = self._chosen(at, buffer.shape[1])
        if len(rows):
            rows = rows.expand(len(buffer), -1)
            fresh = compute(rows).where(is_meant[:, None] > 0, take_rows(buffer, rows))
            buffer.scatter_(1, rows[..., None].expand_as(fresh), fresh)
        return self.value(kept, at)

    def _chosen(self, at: Moment, count: int) -> Chosen:
        """The rows of those `count` at the place that this rank has."""
        share = share_of(at, count)
        fresh = self.row_count(at.place, share.total)
        step, given = self.drawing_numbers(at.numbers)
        if self.fresh_rows is None:
            mask = drawn(self.seed, step, at.place, share.offset, share.total, fresh)
            most = share.most(fresh)
        else:
            mask = given_rows(self.fresh_rows).mask(at.place, given, share.total)
            most = fresh
        return own(mask, share.first, count, min(most, count))

    def _share(self, place: Place) -> float:
        """The fresh share of rows at a place, not yet cut to [0, 1]."""
        block, double = place[0], self.config.double
        is_double = block < double
        layer = block * min(1.0, DOUBLE_BLOCKS / double) if is_double else block - double
        return self.fresh_ratio * (1.5 - layer / LAYERS) * (0.4 if is_double else 1.6)
