"""Reuse of the final hidden state: a step that is not full takes the last full step's tokens.

The simplest cache of what DisCa predicts, and the baseline that the paper measures it against.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.blocks import BlockContext, run_blocks
from ..schedule import Step
from .policy import StepKind


@dataclass
class ReuseState:
    """`cached [B, S, C]`: tokens after the last block of the last full step of this sample."""

    cached: Tensor


class ReusePolicy:
    name = "reuse"
    schedule_known = True

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> ReuseState:
        return ReuseState(torch.empty(tokens, dtype=dtype, device=device))

    def reset(self, state: ReuseState) -> None:
        """Nothing to do: a schedule begins with a full step, which overwrites `cached`."""

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        return tokens.numel() * dtype.itemsize

    def decide(self, step: Step, tokens: Tensor, state: ReuseState) -> StepKind:
        return "full" if step.is_full else "predicted"

    def run(
        self,
        kind: StepKind,
        tokens: Tensor,
        context: BlockContext,
        blocks: Sequence[nn.Module],
        state: ReuseState,
    ) -> Tensor:
        if kind == "predicted":
            return state.cached
        tokens = run_blocks(blocks, tokens, context, out=state.cached)
        if tokens is not state.cached:
            state.cached.copy_(tokens)
        return tokens
