"""The rows of an edit computed anew, those of the rest kept: as in FISEdit and EEdit.

FISEdit (arXiv 2305.17423) computes masked pixels only, with what it kept of the others; EEdit
(arXiv 2503.10270) prefers tokens in and around the mask by a score. Here the masked tokens, and
those alone, are computed (a choice): the rest of the video follows the original whatever comes out.
"""

from dataclasses import dataclass

from torch import Tensor

from ...config import DiTConfig
from ...tokens import TokenLayout
from ..stand_in import Moment, Place
from ..token_mask import TokenMask
from .rows_of_blocks import RowsOfBlocks


@dataclass(frozen=True)
class EditedRows(RowsOfBlocks):
    """The tokens of `edit_mask`, which is the sample's; one a rank at least, so that all have work.

    `row_count` is of all ranks together.
    """

    config: DiTConfig
    edit_mask: TokenMask | None = None

    def __post_init__(self) -> None:
        if self.edit_mask is None:
            raise ValueError(
                "policy edit goes with a video to edit and a mask: edit and mask of a request, "
                "generate --edit LATENTS.safetensors --mask FILE"
            )

    def row_count(self, place: Place, rows: int) -> int:
        return self.edit_mask.count()

    def chosen(self, at: Moment) -> Tensor:
        return at.edited

    def room(self, layout: TokenLayout, clean: int) -> int:
        masked = self.edit_mask.count(layout.start + clean, layout.start + layout.img_len)
        return min(max(clean + masked, 1), layout.img_len)
