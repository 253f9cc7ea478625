"""DisCa (arXiv 2602.05449): full steps keep the last hidden state, the others predict from it.

Full step: run all blocks, keep the tokens after the last one. Predicted step: the predictor
continues from this step's embedded tokens and the kept ones. One S×C tensor is all it keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.blocks import BlockContext
from ..models.predictor import Predictor
from ..schedule import Step


@dataclass
class DisCaState:
    """`cached [B, S, C]`: tokens after the last block of the last full step of this sample."""

    cached: Tensor
    is_filled: bool = False


class DisCaPolicy:
    name = "disca"
    schedule_known = True

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> DisCaState:
        return DisCaState(torch.empty(tokens, dtype=dtype, device=device))

    def reset(self, state: DisCaState) -> None:
        state.is_filled = False

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        return tokens.numel() * dtype.itemsize

    def is_predicted(self, step: Step) -> bool:
        return not step.is_full

    def run(
        self,
        step: Step,
        tokens: Tensor,
        context: BlockContext,
        blocks: Sequence[nn.Module],
        state: DisCaState,
    ) -> Tensor:
        if not step.is_full:
            assert state.is_filled, "a schedule begins with a full step"
            return self.predictor(tokens, state.cached, context)
        for block in blocks:
            tokens = block(tokens, context)
        state.cached.copy_(tokens)
        state.is_filled = True
        return tokens
