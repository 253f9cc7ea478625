"""Joint tokens of a step: the places of image and text, and what else all blocks share.

Most models modulate all rows of a sample by one vector. One that is given a clean first frame has
a vector for its rows, and one for the others: two groups.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class TokenLayout(NamedTuple):
    """The places of image and text among the tokens `[B, S, C]` that a block is given.

    Image first: `img_len` rows; text after it. `lengths [B]` int32 counts image plus valid text
    tokens of each whole sample on the device, the rest is padding; None where nothing is padding.
    `whole` is the number of image and of text tokens where those at hand are a rank's share of
    them, of which the first is number `start` of all. `grid` is (T, H, W) of all image tokens in
    patches. `counts` are the `lengths` on the host, None where a capture is to serve any.
    """

    img_len: int
    lengths: Tensor | None
    whole: tuple[int, int] | None = None
    start: int = 0
    grid: tuple[int, int, int] | None = None
    counts: tuple[int, ...] | None = None


class RowVectors(NamedTuple):
    """Vectors `values [B, G, C]` of G groups of rows; each goes on to where the next one starts.

    `starts` are the first rows of all groups but the first; they are image rows, so that text is in
    the last group.
    """

    values: Tensor
    starts: tuple[int, ...]

    def of_share(self, img: range) -> "RowVectors":
        """The same vectors for joint tokens whose image rows are those numbered `img` of all."""
        starts = (min(max(start, img.start), img.stop) - img.start for start in self.starts)
        return self._replace(starts=tuple(starts))


Vector = Tensor | RowVectors
"""Values for each row: `[B, C]`, the same for all rows of a sample, or those of its group."""


def of_text(vector: Vector) -> Tensor:
    """The values `[B, C]` of the last group of rows, which is that of text."""
    return vector if isinstance(vector, Tensor) else vector.values[:, -1]


def groups(vector: Vector, count: int) -> Tensor:
    """The values of `count` groups of rows, `[B, G, C]`; all the same where there are no groups."""
    if isinstance(vector, Tensor):
        return vector[:, None].expand(-1, count, -1)
    return vector.values


def with_groups(vector: Vector, values: Tensor) -> Vector:
    """`vector` with the values `[B, G, C]` of its groups."""
    if isinstance(vector, Tensor):
        return values[:, 0]
    return vector._replace(values=values)


def weighted(vector: Vector, weights: Tensor | None) -> Sequence[Vector]:
    """`vector` times each of `weights [K]` fp32; itself alone where there are none."""
    if weights is None:
        return (vector,)
    if isinstance(vector, Tensor):
        return (weights.view(-1, *(1,) * vector.ndim) * vector).unbind()
    return [vector._replace(values=each) for each in weighted(vector.values, weights)]


class StepContext(NamedTuple):
    """Inputs of all blocks of a step: `vec` of width C, rotary tables `[S_img, D/2]`, layout.

    `modulations [B, N]` is what the DiT's own blocks make of `vec`, where that has been computed.
    """

    vec: Vector
    freqs_cos: Tensor
    freqs_sin: Tensor
    layout: TokenLayout
    modulations: Tensor | None = None
