"""The protocol by which a rank has some of a sample's tokens between embedding and head.

Embedding and text refiner run whole on every rank, the blocks and what a policy keeps on a share of
the tokens, and the head's patches are gathered.
"""

from typing import Protocol

from torch import Tensor

from .tokens import StepContext, TokenLayout


class Sharding(Protocol):
    """The tokens of one sample over `size` ranks."""

    size: int

    def share(self, img_tokens: int, txt_tokens: int) -> tuple[int, int]:
        """Numbers of image and of text tokens of a sample that this rank has."""

    def heads(self, heads: int, img_tokens: int, txt_tokens: int) -> int:
        """The number of `heads` with which this rank attends to all tokens of a sample.

        ValueError where it does not attend to all of them at once.
        """

    def from_first_rank(self, latents: Tensor) -> Tensor:
        """The first rank's `latents`, whatever this rank gives."""

    def take(self, tokens: Tensor, context: StepContext) -> tuple[Tensor, StepContext]:
        """This rank's share of joint tokens `[B, S, C]`, and the context of it."""

    def gather(self, rows: Tensor, layout: TokenLayout) -> Tensor:
        """The rows of all image tokens, `[B, S_img, P]`, from this rank's."""

    def total(self, sums: Tensor) -> Tensor:
        """The sums of `sums` over the ranks, the same on all of them."""


class Whole:
    """One rank has everything."""

    size = 1

    def share(self, img_tokens: int, txt_tokens: int) -> tuple[int, int]:
        return img_tokens, txt_tokens

    def heads(self, heads: int, img_tokens: int, txt_tokens: int) -> int:
        return heads

    def from_first_rank(self, latents: Tensor) -> Tensor:
        return latents

    def take(self, tokens: Tensor, context: StepContext) -> tuple[Tensor, StepContext]:
        return tokens, context

    def gather(self, rows: Tensor, layout: TokenLayout) -> Tensor:
        return rows

    def total(self, sums: Tensor) -> Tensor:
        return sums
