"""A sample step by step without the engine, for loops that a test writes out.

`Loop` runs one pass of a model, or part of it, and moves latents on; what is cached is the test's.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from disca_rt.attention.protocol import Attention
from disca_rt.conditioning import Conditioning
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.prepared import Prepared
from disca_rt.models.stream import Branch as BranchAndGate
from disca_rt.models.stream import PendingSum, materialise
from disca_rt.schedule import Step
from disca_rt.tokens import Vector

Branch = Callable[[int, str, Callable[[], Tensor]], Tensor]
"""The value of a branch, by number of the block, name, and what computes it."""


class Written:
    """A block's branches, given to `branch`."""

    names = frozenset({"img_attn", "txt_attn", "img_mlp", "txt_mlp", "attn", "mlp", "total"})

    def __init__(self, index: int, branch: Branch) -> None:
        self.index, self.branch = index, branch

    def around(self, attention: Attention) -> Attention:
        return attention

    def __call__(
        self, name: str, compute: Callable[[], Tensor], gate: Vector | None = None
    ) -> BranchAndGate:
        is_joined = name == "total"
        value = compute() if is_joined else self.branch(self.index, name, compute)
        return BranchAndGate(value, gate)


class Loop(NamedTuple):
    """A model and the conditionings of its passes; `guidance` is embedded, times 1000."""

    dit: DiT
    prepared: list[Prepared]
    guidance: float | None = None

    @classmethod
    def of(
        cls, dit: DiT, conditions: list[Conditioning], latents: Tensor, guidance: float | None
    ) -> "Loop":
        return cls(dit, [dit.prepare(each, latents.shape) for each in conditions], guidance)

    def embedded(self, number: int, latents: Tensor, step: Step) -> tuple:
        """Tokens of pass `number` before the first block, and their context."""
        batch = len(latents)
        scale = None if self.guidance is None else torch.full((batch,), self.guidance)
        t, r = (torch.full((batch,), x) for x in (step.t, step.r))
        inputs = StepInputs(t, r if self.dit.config.meanflow else None, scale)
        return self.dit.embed(latents, inputs, self.prepared[number])

    def blocks(
        self, tokens: Tensor, context: object, start: int, stop: int, branch: Branch | None = None
    ) -> Tensor:
        """Tokens after blocks `start` to `stop` - 1."""
        for index in range(start, stop):
            block = self.dit.blocks[index]
            more = () if branch is None else (Written(index, branch),)
            tokens = materialise(block((PendingSum(tokens),), context, *more), block.ops)
        return tokens

    def velocity(
        self, number: int, latents: Tensor, step: Step, branch: Branch | None = None
    ) -> Tensor:
        """The velocity `[B, C, T, H, W]` of pass `number`."""
        tokens, context = self.embedded(number, latents, step)
        tokens = self.blocks(tokens, context, 0, len(self.dit.blocks), branch)
        return self.head(number, tokens, context)

    def head(self, number: int, tokens: Tensor, context: object) -> Tensor:
        return self.dit.unpatchify(self.dit.head(tokens, context), self.prepared[number]).float()


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """The velocity of both passes under classifier-free guidance."""
    return unconditional + scale * (conditional - unconditional)
