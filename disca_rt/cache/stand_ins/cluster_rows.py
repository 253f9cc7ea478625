"""One row of each cluster computed anew, which speaks for the others: ClusCa (arXiv 2509.10312).

As the authors run it on HunyuanVideo (Shenyi-Z/Cache4Diffusion): one row of each cluster, drawn at
random, goes through each double block's MLP; every other row of the cluster moves towards it by
`propagation_ratio`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.row_groups import take_rows
from ..options import check_choice, check_int
from ..row_draws import given_rows, scores
from ..stand_in import Kept, Moment, Place
from .clusters import Clusters
from .drawn_rows import Drawing, Expanded

CLUSTERS = 2  # the number of the slot that finds them, in the method's row
ROW_BITS = 24


@dataclass(frozen=True)
class Forecast(Expanded):
    """The forecast of ClusCa's other branches."""

    max_order: int = 1


@dataclass(frozen=True)
class ClusterRows(Drawing):
    """One fresh row of each of `cluster_num` clusters; all else is forecast by `max_order`.

    Where the code departs from the paper: the slopes of the forecast are added to fresh rows too
    (followed; not with `add_slope` false). A cluster without rows draws row 0 (followed). Several
    rows of one cluster, as that makes them, count as their sum (followed; as their mean with
    `speaks` "mean"). The text's kept rows are overwritten by the image's fresh ones (here by the
    text's).
    """

    max_order: int = 1
    cluster_num: int = 32
    propagation_ratio: float = 0.01
    add_slope: bool = True
    speaks: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("cluster_num", self.cluster_num, 1)
        if not 0 <= self.propagation_ratio <= 1:
            raise ValueError(f"propagation_ratio must be from 0 to 1, got {self.propagation_ratio}")
        check_choice("speaks", self.speaks, ("sum", "mean"))

    def row_count(self, place: Place, rows: int) -> int:
        return self.cluster_num

    def refresh(self, kept: Kept, compute: Callable[[Tensor], Tensor], at: Moment) -> Tensor:
        buffer, labels = kept[0][0], self._labels(at).to(kept[0].device)
        if not buffer.shape[1]:
            return self.value(kept, at)
        rows = self._drawn(labels, at)
        slope = 0 if self.add_slope else self.value(kept, at) - buffer
        target = (buffer + slope).scatter(1, _wide(rows, buffer), compute(rows))
        if self.propagation_ratio:
            target = self._propagated(target, rows, labels)
        buffer.copy_(target - slope)
        return self.value(kept, at)

    def _labels(self, at: Moment) -> Tensor:
        """The clusters `[B, S]` of the rows at a place."""
        labels = Clusters.labels(at.whole_of(CLUSTERS, at.which_pass))
        img = at.context.layout.img_len
        return labels[:, img:] if at.place[1] == "txt_mlp" else labels[:, :img]

    def _drawn(self, labels: Tensor, at: Moment) -> Tensor:
        """A row `[B, K]` of each cluster; 0 of those that have none."""
        step, given = self.drawing_numbers(at.numbers)
        if self.fresh_rows is not None:
            return given_rows(self.fresh_rows).rows(at.place, given).expand(len(labels), -1)
        count = labels.shape[1]
        drawn = scores(self.seed, step, at.place, 0, count)
        keys = (drawn << ROW_BITS) + torch.arange(count, device=labels.device)
        best = labels.new_zeros(len(labels), self.cluster_num)
        best = best.scatter_reduce(1, labels, keys.expand_as(labels), "amax")
        return best & ((1 << ROW_BITS) - 1)

    def _propagated(self, target: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """Every row moved towards what its cluster's fresh rows speak for."""
        is_of = F.one_hot(labels.gather(1, rows), self.cluster_num).to(target.dtype)
        said = is_of.transpose(1, 2) @ take_rows(target, rows)
        counts = is_of.sum(1)[..., None]
        if self.speaks == "mean":
            said = said / counts.clamp(min=1)
        ratio = self.propagation_ratio * take_rows(counts.clamp(max=1), labels)
        return target + ratio * (take_rows(said, labels) - target)


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    return rows[..., None].expand(-1, -1, like.shape[2])
