"""No cache: every block at every step, whatever the schedule says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..models.blocks import run_blocks
from ..schedule import Step
from ..tokens import StepContext
from .policy import StepKind


class FullState:
    """Nothing is kept."""


@dataclass(frozen=True)
class FullPolicy:
    name: ClassVar[str] = "full"
    schedule_known: ClassVar[bool] = True

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> FullState:
        return FullState()

    def reset(self, state: FullState) -> None:
        return None

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        return 0

    def decide(self, step: Step, tokens: Tensor | None, state: FullState) -> StepKind:
        return "full"

    def variant(self, state: FullState) -> None:
        return None

    def run(
        self,
        kind: StepKind,
        tokens: Tensor,
        context: StepContext,
        blocks: Sequence[nn.Module],
        state: FullState,
    ) -> Tensor:
        return run_blocks(blocks, tokens, context)
