"""No cache: every block at every step, whatever the schedule says."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.blocks import BlockContext, run_blocks
from ..schedule import Step
from .policy import StepKind


class FullPolicy:
    name = "full"
    schedule_known = True

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        return None

    def reset(self, state: None) -> None:
        return None

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        return 0

    def decide(self, step: Step, tokens: Tensor | None, state: None) -> StepKind:
        return "full"

    def variant(self, state: None) -> None:
        return None

    def run(
        self,
        kind: StepKind,
        tokens: Tensor,
        context: BlockContext,
        blocks: Sequence[nn.Module],
        state: None,
    ) -> Tensor:
        return run_blocks(blocks, tokens, context)
