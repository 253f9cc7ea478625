"""No cache: every block at every step, whatever the schedule says."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.blocks import BlockContext
from ..schedule import Step


class FullPolicy:
    name = "full"
    schedule_known = True

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        return None

    def reset(self, state: None) -> None:
        return None

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        return 0

    def is_predicted(self, step: Step) -> bool:
        return False

    def run(
        self,
        step: Step,
        tokens: Tensor,
        context: BlockContext,
        blocks: Sequence[nn.Module],
        state: None,
    ) -> Tensor:
        for block in blocks:
            tokens = block(tokens, context)
        return tokens
