"""All blocks on the image rows that move, a linear map of the others: FastCache's static tokens.

As in the authors' code (NoakLiu/FastCache-xDiT, cache/utils.py): a row's change since the last step
is |x_s − x_(s−1)|² of its embedded token, over the largest one's. Static rows, within
`motion_threshold`, take W·x + b in place of all blocks. From accelerator/fastcache.py: where more
than half of the rows move, all of them are computed. There moving rows attend to each other alone;
here to all rows, by the keys and values that the static ones had last (a choice, for which those of
all blocks are kept).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...attention.kept_keys import Rows
from ...tokens import TokenLayout
from ..moving_rows import MOST, moving_rows
from ..options import check_number
from ..stand_in import Kept, Moment, Place, TensorSpec
from .linear_map import Mapped
from .rows_of_blocks import RowsOfBlocks


@dataclass(frozen=True)
class MovingRows(Mapped, RowsOfBlocks):
    """Keeps the last tokens, keys and values of all blocks, the embedded tokens, and the map.

    Static rows are `background`·(their last tokens) + (1 − `background`)·(W·x + b): 0 as in the
    code, whose average of backgrounds is never read. Each rank has room for half of all rows, which
    all may be its own: two ranks or more save no linears. Rows are the same in a batch that is run
    together: one moves where it does in any sample.
    """

    motion_threshold: float | None = None
    background: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.motion_threshold is not None:
            check_number("motion_threshold", self.motion_threshold, 0, 1)
        check_number("background", self.background, 0, 1)

    def row_count(self, place: Place, rows: int) -> int:
        return int(MOST * rows)

    def room(self, layout: TokenLayout, clean: int) -> int:
        frames, height, width = layout.grid
        return min(layout.img_len, clean + int(MOST * frames * height * width))

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        return (*super().kept_specs(like), like, *self.fitted_spec(like))

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        super().keep(kept, value, at)
        img = at.context.layout.img_len
        self.fit(kept, at.entering[:, :img], value[:, :img], at)
        self._entered(kept).copy_(at.entering)

    def refresh(self, kept: Kept, compute: Callable[[Rows], Tensor], at: Moment) -> Tensor:
        tokens, entered, layout = kept[0], self._entered(kept), at.context.layout
        moving = moving_rows(at.entering, entered, self.motion_threshold, at.sharding, layout)
        rows = self._rows(at, moving, tokens.shape[1])
        fresh, last = compute(rows), tokens[:, : layout.img_len]
        mapped = self.mapped(kept, at.entering[:, : layout.img_len], -1)
        last.copy_(torch.lerp(mapped, last, self.background))
        meant = fresh.where(rows.is_meant[:, None], tokens[:, rows.index])
        tokens.index_copy_(1, rows.index, meant)
        entered.copy_(at.entering)
        return tokens

    def _entered(self, kept: Kept) -> Tensor:
        """The embedded tokens of the last step."""
        return kept[1 + 2 * (self.config.double + self.config.single)]
