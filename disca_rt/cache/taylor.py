"""TaylorSeer (arXiv 2503.06923) on the final hidden state: extrapolate it over the step index.

A full step brings the factors up to date: the tokens F, and their derivatives by differences with
the previous full step, d_i = (d_{i−1} − d_{i−1} before) / (steps between the two). A step k later
takes Σ d_i·k^i / i!.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..kernels.ops import Ops
from ..models.blocks import run_blocks
from ..schedule import Step
from ..tokens import StepContext
from .policy import StepKind

MAX_ORDER = 3  # of the fused ops


@dataclass
class TaylorState:
    """`factors [max_order + 1, B, S, C]`, the first `known` of them valid after this step.

    `full_index` is the last full step's; `distance` from it to the current step, or, in a full
    step, to the one before it.
    """

    factors: Tensor
    known: int = 0
    full_index: int = 0
    distance: int = 0


@dataclass(frozen=True)
class TaylorPolicy:
    """`max_order` derivatives; fewer until as many full steps have gone before."""

    name: ClassVar[str] = "taylor"
    schedule_known: ClassVar[bool] = True
    ops: Ops
    max_order: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.max_order <= MAX_ORDER:
            raise ValueError(f"max_order must be from 0 to {MAX_ORDER}, got {self.max_order}")

    def allocate(self, tokens: torch.Size, dtype: torch.dtype, device: torch.device) -> TaylorState:
        shape = (self.max_order + 1, *tokens)
        return TaylorState(torch.empty(shape, dtype=dtype, device=device))

    def reset(self, state: TaylorState) -> None:
        state.known = state.full_index = state.distance = 0

    def cache_bytes(self, tokens: torch.Size, dtype: torch.dtype) -> int:
        return (self.max_order + 1) * tokens.numel() * dtype.itemsize

    def decide(self, step: Step, tokens: Tensor | None, state: TaylorState) -> StepKind:
        state.distance = step.index - state.full_index
        if not step.is_full:
            return "predicted"
        state.full_index = step.index
        state.known = min(state.known + 1, self.max_order + 1)
        return "full"

    def variant(self, state: TaylorState) -> tuple[int, int]:
        return state.known, state.distance

    def run(
        self,
        kind: StepKind,
        tokens: Tensor,
        context: StepContext,
        blocks: Sequence[nn.Module],
        state: TaylorState,
    ) -> Tensor:
        if kind == "predicted":
            return self._forecast(state)
        tokens = run_blocks(blocks, tokens, context)
        self.ops.finite_differences(state.factors, tokens, state.distance, state.known)
        return tokens

    def _forecast(self, state: TaylorState) -> Tensor:
        coefficients = [
            self.basis(order, state.distance) / math.factorial(order)
            for order in range(state.known)
        ]
        return self.ops.forecast(state.factors, coefficients)

    def basis(self, order: int, distance: int) -> float:
        """What the derivative of `order` is multiplied with, `distance` steps on, times order!."""
        return float(distance**order)
