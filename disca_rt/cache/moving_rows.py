"""Image rows that move: those that have changed since an earlier step (FastCache).

Knows no rules; the rows of all ranks are compared with each other.
"""

from torch import Tensor

from ..sharding import Sharding
from ..tokens import TokenLayout

MOST = 0.5  # of the image rows move where rows are split at all


def moving_rows(
    now: Tensor, before: Tensor, threshold: float, sharding: Sharding, layout: TokenLayout
) -> Tensor:
    """A mask `[S_img]` uint8 of all image rows of this rank's tokens `now`, `before [B, S, C]`.

    A row's change is |now − before|², summed over channels. It moves where that is more than
    `threshold` of the largest change of a row of its sample, in any sample of the batch.
    """
    img = layout.img_len
    change = (now[:, :img].float() - before[:, :img].float()).square().sum(-1, keepdim=True)
    change = sharding.gather(change, layout)[..., 0]
    return (change > threshold * change.amax(1, keepdim=True)).any(0).byte()
