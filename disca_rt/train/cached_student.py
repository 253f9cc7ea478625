"""A frozen DiT that samples with a cache: what it computes may be mixed with an earlier step's.

Branches are those of `cache.branch_placements.pairs`, by slot; a weight of 1 computes a branch, 0
reuses what is cached. Gradients reach the weights, whose backward goes through all later blocks.
Knows no way of learning them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..attention.protocol import Attention
from ..cache.placements.branches import pairs
from ..conditioning import Conditioning
from ..models.branches import Compute
from ..models.dit import DiT
from ..models.prepared import Prepared
from ..models.stream import Branch, PendingSum, Stream, materialise
from ..sampling.forward import Forward
from ..tokens import StepContext, Vector
from .data import repeat_rows
from .flow import Point, per_row, step_inputs, velocity, velocity_of

Kept = tuple[Mapping[str, Tensor], ...]
"""Branches of one pass before their gates, by block and name."""


class Entered(NamedTuple):
    """A block and the tokens `[B, S, C]` that enter it."""

    block: nn.Module
    tokens: Tensor
    context: StepContext


class Slot(NamedTuple):
    """A slot by its number, and the branches in it."""

    number: int
    names: tuple[str, ...]


Weigh = Callable[[Slot, Entered], Tensor]
"""The weights `[B]` of a slot."""


class Stepped(NamedTuple):
    """A step's velocity `[B, C, T, H, W]`, fp32, guided, and what each pass keeps for the next."""

    velocity: Tensor
    kept: tuple[Kept, ...]


class CachedStudent:
    """`dit` as it samples: in one pass, or in two that are mixed where it embeds no guidance.

    `unconditional`, of batch 1, is the second pass's conditioning; None: there is one pass. Both
    have the weights of the first. Only branches whose weight is above `keeps_above` are kept anew.
    """

    def __init__(
        self,
        dit: DiT,
        guidance: float,
        unconditional: Conditioning | None,
        keeps_above: float = 0.0,
    ) -> None:
        self.dit, self._guidance, self._unconditional = dit, guidance, unconditional
        self._keeps_above = keeps_above
        self.slots: tuple[list[Slot], ...] = tuple([] for _ in dit.blocks)
        for number, site in enumerate(pairs(dit.config)):
            self.slots[site.start].append(Slot(number, site.names))

    def prepare(self, conditioning: Conditioning, shape: tuple[int, ...]) -> list[Prepared]:
        """Prepare the passes of samples of `shape` [B, C, T, H, W]."""
        passes = [conditioning]
        if self._unconditional is not None:
            passes.append(repeat_rows(self._unconditional.to(self.dit.device), shape[0]))
        return [self.dit.prepare(each, shape) for each in passes]

    def velocity(self, point: Point, prepared: list[Prepared]) -> Tensor:
        """Velocity of a step that computes everything and keeps nothing."""
        return self.guided([velocity(self.dit, point, each) for each in prepared])

    @torch.no_grad()
    def hidden(self, point: Point, prepared: Prepared) -> tuple[list[Tensor], StepContext]:
        """Run one pass; returns the tokens before the first block and after each, as fp32."""
        dit = self.dit
        tokens, context = Forward(dit).embed(point.x_t, step_inputs(dit, point), prepared)
        found = [tokens]
        for block in dit.blocks:
            found.append(materialise(block((PendingSum(found[-1]),), context), dit.ops))
        return [each.float() for each in found], context

    def step(
        self,
        point: Point,
        prepared: list[Prepared],
        weigh: Weigh | None = None,
        cached: tuple[Kept, ...] = (),
    ) -> Stepped:
        """Take a step that mixes with `cached` by `weigh`; without it everything is computed."""
        weights: list[dict[str, Tensor]] = []
        done = []
        for number, each in enumerate(prepared):
            before = cached[number] if cached else None
            done.append(self._pass(point, each, weigh if number == 0 else None, before, weights))
        velocities, kept = zip(*done, strict=True)
        return Stepped(self.guided(list(velocities)), tuple(kept))

    def _pass(
        self,
        point: Point,
        prepared: Prepared,
        weigh: Weigh | None,
        cached: Kept | None,
        weights: list[dict[str, Tensor]],
    ) -> tuple[Tensor, Kept]:
        """Take one pass; `weights` by block are made by `weigh`, or those of the pass before."""
        dit, kept = self.dit, []
        tokens, context = Forward(dit).embed(point.x_t, step_inputs(dit, point), prepared)
        stream: Stream = (PendingSum(tokens),)
        for index, block in enumerate(dit.blocks):
            names = [name for slot in self.slots[index] for name in slot.names]
            mixed = _Mixed(names, self._keeps_above)
            if weigh is not None:
                stream = (PendingSum(materialise(stream, dit.ops)),)
                weights.append(self._weights(index, weigh, Entered(block, stream[0].x, context)))
            if cached is not None:
                mixed.mix(cached[index], weights[index])
            stream = block(stream, context, mixed)
            kept.append(mixed.kept)
        out = velocity_of(dit, materialise(stream, dit.ops), context, prepared)
        return out, tuple(kept)

    def _weights(self, index: int, weigh: Weigh, entered: Entered) -> dict[str, Tensor]:
        weights = {}
        for slot in self.slots[index]:
            weights |= dict.fromkeys(slot.names, weigh(slot, entered)[:, None, None])
        return weights

    def guided(self, velocities: list[Tensor]) -> Tensor:
        """Mix the velocities of the passes."""
        if len(velocities) == 1:
            return velocities[0]
        conditional, unconditional = velocities
        return unconditional + self._guidance * (conditional - unconditional)


class _Mixed:
    """The branches of one block, each w·computed + (1 − w)·cached, and what is kept of them.

    It may be called again in a backward that computes the block again: it only reads what it mixes.
    """

    def __init__(self, names: list[str], keeps_above: float) -> None:
        self.names = frozenset(names)
        self.kept: dict[str, Tensor] = {}
        self._keeps_above = keeps_above
        self._cached: Mapping[str, Tensor] = {}
        self._weights: Mapping[str, Tensor] = {}

    def mix(self, cached: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        self._cached, self._weights = cached, weights

    def around(self, attention: Attention) -> Attention:
        return attention

    def __call__(self, name: str, compute: Compute, gate: Vector | None = None) -> Branch:
        value = compute()
        if name not in self.names:
            return Branch(value, gate)
        if name not in self._weights:
            self.kept[name] = value.detach()
            return Branch(value, gate)
        weight, cached = self._weights[name].to(value.dtype), self._cached[name]
        value = weight * value + (1 - weight) * cached
        self.kept[name] = torch.where(weight > self._keeps_above, value, cached).detach()
        return Branch(value, gate)


def stepped_on(point: Point, velocity: Tensor, to: Tensor) -> Tensor:
    """Latents after an Euler step along `velocity` from t to `to`, `[B]`."""
    return point.x_t + per_row(to - point.t) * velocity
