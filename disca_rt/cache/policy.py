"""The seam every cache policy implements: it owns the middle of a step and its own typed state.

The engine embeds and heads; a policy turns embedded tokens into final tokens, by all blocks, a
range of them, some branches of them, or none. It never sees latents, graphs or ranks.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..schedule import Step
from ..tokens import StepContext

StateT = TypeVar("StateT")
StepKind = Literal["full", "predicted"]
"""Full: all blocks ran. Predicted: something cheaper stood in for them."""


class CachePolicy(Protocol, Generic[StateT]):
    """Hashable; equal policies do the same, and may have each other's states.

    `schedule_known`: which steps are full is decided by the schedule alone, before the run.
    """

    name: str
    schedule_known: bool

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> StateT:
        """A new state for a sample of joint tokens `[B, S, C]`; buffers are written in place."""

    def reset(self, state: StateT) -> None:
        """Forget the previous sample; addresses stay as they are."""

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        """What `allocate` takes, in bytes."""

    def decide(self, step: Step, tokens: Tensor | None, state: StateT) -> StepKind:
        """What this step will do; all that is kept outside tensors moves on here.

        Where `schedule_known`, only `step` is looked at, and `tokens` may be None.
        """

    def variant(self, state: StateT) -> Hashable:
        """What `run` depends on besides tensors: equal variants of a kind do the same to them."""

    def run(
        self,
        kind: StepKind,
        tokens: Tensor,
        context: StepContext,
        blocks: Sequence[nn.Module],
        state: StateT,
    ) -> Tensor:
        """Embedded tokens `[B, S, C]` -> tokens for the head; moves nothing on but tensors."""
