"""Which tokens of a sample a rank has, between the embedding and the head of a DiT.

Embedding and text refiner run whole on every rank, the blocks and what a policy caches on a share
of the tokens, and the head's patches are gathered.
"""

from typing import Protocol

from torch import Tensor

from .tokens import StepContext, TokenLayout


class Sharding(Protocol):
    """Over one process or several."""

    def share(self, img_tokens: int, txt_tokens: int) -> int:
        """How many of a sample's tokens this rank has."""

    def from_first_rank(self, latents: Tensor) -> Tensor:
        """The first rank's initial latents, whatever this rank drew."""

    def scatter(self, tokens: Tensor, context: StepContext) -> tuple[Tensor, StepContext]:
        """This rank's share of joint tokens `[B, S, C]`, and the context of it."""

    def gather(self, rows: Tensor, layout: TokenLayout) -> Tensor:
        """The rows of all image tokens, `[B, S_img, P]`, from this rank's."""


class Whole:
    """One rank has everything."""

    def share(self, img_tokens: int, txt_tokens: int) -> int:
        return img_tokens + txt_tokens

    def from_first_rank(self, latents: Tensor) -> Tensor:
        return latents

    def scatter(self, tokens: Tensor, context: StepContext) -> tuple[Tensor, StepContext]:
        return tokens, context

    def gather(self, rows: Tensor, layout: TokenLayout) -> Tensor:
        return rows
