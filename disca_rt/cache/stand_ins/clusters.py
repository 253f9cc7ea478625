"""Clusters of tokens, found at full steps by k-means: for ClusCa (arXiv 2509.10312).

As in the authors' code for HunyuanVideo (Shenyi-Z/Cache4Diffusion): distances are L1, centroids are
means; image and text are apart; centroids begin as rows drawn at random, later as those found last.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import File, check_int
from ..row_draws import given_rows, scores
from ..site import Level
from ..stand_in import Kept, KeptAsIs, Moment, StandInDefaults, TensorSpec

ITERATIONS = 10  # of the code, which stops before where centroids have settled


@dataclass(frozen=True)
class Clusters(KeptAsIs, StandInDefaults):
    """Keeps the tokens `[B, S, C]`, the cluster of each row, and 2·`cluster_num` centroids.

    It stands in by the kept tokens. A rank clusters its own rows, and the first centroids are rows
    drawn by a hash of `seed` (choices), or given by the file `fresh_rows`: "0.0.centroids" are
    those of the image at step 0, "0.1.centroids" those of the text.
    """

    levels: ClassVar[tuple[Level, ...]] = ("blocks",)
    cluster_num: int = 32
    seed: int = 0
    fresh_rows: File | None = None

    def __post_init__(self) -> None:
        check_int("cluster_num", self.cluster_num, 1)
        check_int("seed", self.seed, 0, 2**31 - 1)

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        batch, rows, hidden = like.shape
        if self.cluster_num > rows:
            raise ValueError(
                f"cluster_num must be at most the {rows} tokens, got {self.cluster_num}"
            )
        centroids = like._replace(shape=(batch, 2 * self.cluster_num, hidden), dtype=torch.float32)
        return like, like._replace(shape=(batch, rows), dtype=torch.int64), centroids

    @staticmethod
    def labels(kept: Kept) -> Tensor:
        """The cluster `[B, S]` int64 of each row, in what it keeps.

        Found by its dtype: in FP8 (`KeptElsewhere`) buffers before it are two each.
        """
        (labels,) = (each for each in kept if each.dtype == torch.int64)
        return labels

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The step, whether something was kept before, and first rows where a file gives them."""
        rows = () if self.fresh_rows is None else given_rows(self.fresh_rows).numbers(step)
        return (float(step), float(bool(kept_at)), *rows)

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        super().keep(kept, value, at)
        layout, rows = at.context.layout, value.shape[1]
        weights = torch.ones(len(value), rows, 1, dtype=torch.float32, device=value.device)
        if layout.lengths is not None:
            places = torch.arange(rows, device=value.device) + layout.start
            weights = (places < layout.lengths[:, None])[..., None].float()
        parts = (
            each.split([layout.img_len, rows - layout.img_len], 1)
            for each in (value, weights, kept[1])
        )
        for stream, (x, weight, labels) in enumerate(zip(*parts, strict=True)):
            if x.shape[1]:
                centroids = kept[2][:, stream * self.cluster_num :][:, : self.cluster_num]
                begin = torch.where(at.numbers[1] > 0, centroids, self._first(x, at, stream))
                for buffer, found in zip(
                    (centroids, labels), kmeans(x, begin, weight), strict=True
                ):
                    buffer.copy_(found)

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0]

    def _first(self, x: Tensor, at: Moment, stream: int) -> Tensor:
        """Rows drawn at random, several times the same where there are fewer."""
        place, count = (stream, "centroids"), x.shape[1]
        if self.fresh_rows is not None:
            return x[:, given_rows(self.fresh_rows).rows(place, at.numbers[2:])].float()
        drawn = scores(self.seed, at.numbers[0], place, 0, count)
        index = drawn.topk(min(count, self.cluster_num)).indices
        return x[:, index.repeat(-(-self.cluster_num // count))[: self.cluster_num]].float()


def kmeans(rows: Tensor, centroids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Centroids `[B, K, C]` fp32 of `rows [B, S, C]` after ten iterations in L1, and labels.

    `weights [B, S, 1]` are 0 for padding, else 1. `labels [B, S]` are those from which the
    centroids were made. A sample whose centroids have settled (as by `torch.allclose` with rtol
    1e-4) stays as it is, as where the code stops; a centroid of no rows becomes zero, as there.
    """
    x, count = rows.float(), centroids.shape[1]
    labels = torch.zeros(rows.shape[:2], dtype=torch.int64, device=rows.device)
    is_over = torch.zeros(len(rows), 1, 1, dtype=torch.bool, device=rows.device)
    for _ in range(ITERATIONS):
        nearest = torch.cdist(x, centroids, p=1).argmin(-1)
        labels = torch.where(is_over[:, :, 0], labels, nearest)
        one_hot = F.one_hot(labels, count) * weights
        means = (one_hot.transpose(1, 2) @ x) / (one_hot.sum(1) + 1e-8)[..., None]
        is_same = (centroids - means).abs() <= 1e-8 + 1e-4 * means.abs()
        is_over = is_over | is_same.flatten(1).all(1)[:, None, None]
        centroids = torch.where(is_over, centroids, means)
    return centroids, labels
