"""A DiT's forward over one process or several: `embed`, blocks on this rank's tokens, `head`.

The one place where tokens are shared out and patches gathered; models know no ranks.
"""

from typing import NamedTuple

from torch import Tensor

from ..models.dit import DiT, StepInputs, Timed
from ..models.prepared import Prepared
from ..sharding import Sharding
from ..tokens import StepContext


class Forward(NamedTuple):
    """`dit` over the ranks that its attention is over."""

    dit: DiT

    @property
    def sharding(self) -> Sharding:
        """The sharding: the tokens that this rank has."""
        return self.dit.attention.sharding

    def embed(
        self, latents: Tensor, step: StepInputs, prepared: Prepared
    ) -> tuple[Tensor, StepContext]:
        """Latents `[B, C, T, H, W]` -> this rank's joint tokens `[B, S, C]`, and their context."""
        return self.sharding.take(*self.dit.embed(latents, step, prepared))

    def embed_timed(
        self, latents: Tensor, timed: Timed, prepared: Prepared
    ) -> tuple[Tensor, StepContext]:
        """`embed` of a step whose `timed` part has been computed."""
        return self.sharding.take(*self.dit.embed_timed(latents, timed, prepared))

    def head(self, tokens: Tensor, context: StepContext) -> Tensor:
        """This rank's joint tokens -> all velocity patches `[B, S_img, C·p·q·r]`."""
        return self.sharding.gather(self.dit.head(tokens, context), context.layout)

    def velocity(self, tokens: Tensor, context: StepContext, prepared: Prepared) -> Tensor:
        """This rank's joint tokens -> velocity `[B, C, T, H, W]`."""
        return self.dit.unpatchify(self.head(tokens, context), prepared)
