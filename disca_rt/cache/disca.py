"""DisCa (arXiv 2602.05449): full steps keep the last hidden state, the others predict from it.

Full step: run all blocks, keep the tokens after the last one. Predicted step: the predictor
continues from this step's embedded tokens and the kept ones. One S×C tensor is all it keeps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..models.blocks import run_blocks
from ..schedule import Step
from ..tokens import StepContext
from .policy import StepKind


@dataclass
class DisCaState:
    """`cached [B, S, C]`: tokens after the last block of the last full step of this sample."""

    cached: Tensor


@dataclass(frozen=True)
class DisCaPolicy:
    """`predictor` is called as `(current, cached, context)` -> tokens `[B, S, C]`."""

    name: ClassVar[str] = "disca"
    schedule_known: ClassVar[bool] = True
    predictor: Callable[[Tensor, Tensor, StepContext], Tensor]

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> DisCaState:
        return DisCaState(torch.empty(tokens, dtype=dtype, device=device))

    def reset(self, state: DisCaState) -> None:
        """Nothing to do: a schedule begins with a full step, which overwrites `cached`."""

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        return tokens.numel() * dtype.itemsize

    def decide(self, step: Step, tokens: Tensor | None, state: DisCaState) -> StepKind:
        return "full" if step.is_full else "predicted"

    def variant(self, state: DisCaState) -> None:
        return None

    def run(
        self,
        kind: StepKind,
        tokens: Tensor,
        context: StepContext,
        blocks: Sequence[nn.Module],
        state: DisCaState,
    ) -> Tensor:
        if kind == "predicted":
            return self.predictor(tokens, state.cached, context)
        tokens = run_blocks(blocks, tokens, context, out=state.cached)
        if tokens is not state.cached:  # ops that write in place have saved this pass
            state.cached.copy_(tokens)
        return tokens
