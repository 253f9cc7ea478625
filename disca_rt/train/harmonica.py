"""HarmoniCa (arXiv 2410.01723): gates along whole trajectories from noise.

Every step from the second mixes by its gates what it computes with what is cached, which is
replaced where a gate is above the threshold; the latents move on by the mixed velocity. The loss is
the sum over steps of lambda_s·(squared error to a full step's velocity) + l1·Σw.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..conditioning import Conditioning
from ..models.dit import DiT
from ..models.prepared import Prepared
from .branch_cache import CacheStage, CacheStageConfig, Gates, gates_of
from .cached_student import Entered, Kept, Slot, Stepped, stepped_on
from .config import check_positive
from .data import Batch
from .draws import Draws
from .flow import Point, mean_square
from .stage import Loss


@dataclass(frozen=True)
class HarmoniCaStageConfig(CacheStageConfig):
    """`l1`, `thres` and `lambda_c` are the authors', of 10 steps of DiT-XL/2 at 256x256.

    `lambda_c` counts steps of trajectories between two refreshes of the lambdas.
    """

    l1: float = 7e-8
    thres: float = 0.1
    lambda_c: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("l1", "lambda_c"):
            check_positive(name, getattr(self, name))


class HarmoniCaStage(CacheStage):
    """Trains the gates of all steps but the first, which is full.

    lambda_s is the squared difference between samples whose gates are at work up to step s and up
    to the one before, as in the authors' code, where these begin at the second step; the paper has
    a distance of samples with and without a cache. Only latents are handed on without a gradient,
    so a gate learns from its own step alone, and one optimizer step per trajectory is the authors'
    one per step. The lambdas are made of the samples of one forward, which must be all of a batch.
    """

    method = "harmonica"

    def __init__(self, config: HarmoniCaStageConfig, dit: DiT, unconditional: Conditioning | None):
        self.keeps_above = config.thres
        gates = Gates(config, dit.config)
        gates.register_buffer("lambdas", torch.zeros(config.sampling_steps))
        super().__init__(config, gates, dit, unconditional)

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        config, learned = self.config, self.trained["cache"]
        self._check_whole(batch)
        gates = learned()
        prepared = self.student.prepare(batch.conditioning, batch.latents.shape)
        state = self._begun(draws.noise, prepared)
        if step % max(1, config.lambda_c // config.sampling_steps) == 0:
            learned.lambdas.copy_(self._lambdas(gates.detach(), state, prepared))
        errors, slopes = [], torch.zeros_like(gates)
        for number in range(1, config.sampling_steps):
            of_step = gates[number].detach().requires_grad_()
            with torch.no_grad():
                target = self.student.velocity(self._point(state, number), prepared)
            stepped = self._step(state, number, prepared, of_step)
            error = mean_square(stepped.velocity, target)
            (slopes[number],) = torch.autograd.grad(learned.lambdas[number] * error, of_step)
            errors.append(error.detach())
            state = self._after(state, number, stepped)
        error = torch.stack(errors)
        slopes[1:] += config.l1
        value = (learned.lambdas[1:] * error).sum() + config.l1 * gates[1:].detach().sum()
        # The gradient is there already, step by step: no more than one step's graph was held.
        total = value + (slopes * (gates - gates.detach())).sum()
        computed = (gates[1:] > config.thres).float().mean()
        return Loss(total, {"loss": value, "mse": error.mean(), "computed": computed})

    def learned(self, weights: Mapping[str, Tensor]) -> Tensor:
        gates = gates_of(weights)
        gates[0] = 1
        return gates

    def _check_whole(self, batch: Batch) -> None:
        whole, got = self.config.run.batch, len(batch.latents)
        if got != whole:
            raise ValueError(
                f"harmonica weighs its steps by all {whole} samples of a batch at once, got a "
                f"forward of {got}; leave out micro_batch, and let the ranks share samples"
            )

    @torch.no_grad()
    def _lambdas(self, gates: Tensor, state: "_State", prepared: list[Prepared]) -> Tensor:
        """Compute the lambda of every step, 0 for the first."""
        lambdas, before = torch.zeros(len(gates)), self._finished(state, 1, prepared)
        for number in range(1, len(gates)):
            stepped = self._step(state, number, prepared, gates[number])
            state = self._after(state, number, stepped)
            sample = self._finished(state, number + 1, prepared)
            lambdas[number], before = mean_square(sample, before), sample
        return lambdas

    def _finished(self, state: "_State", number: int, prepared: list[Prepared]) -> Tensor:
        """Sample on with full steps from step `number`."""
        for later in range(number, self.config.sampling_steps):
            velocity = self.student.velocity(self._point(state, later), prepared)
            state = self._after(state, later, Stepped(velocity, ()))
        return state.latents

    @torch.no_grad()
    def _begun(self, noise: Tensor, prepared: list[Prepared]) -> "_State":
        """Take the first step, in full."""
        state = _State(noise, ())
        return self._after(state, 0, self.student.step(self._point(state, 0), prepared))

    def _step(
        self, state: "_State", number: int, prepared: list[Prepared], gates: Tensor
    ) -> Stepped:
        """Take step `number` with its `gates [slots]`."""

        def weigh(slot: Slot, entered: Entered) -> Tensor:
            return gates[slot.number].expand(len(state.latents))

        return self.student.step(self._point(state, number), prepared, weigh, state.cached)

    def _point(self, state: "_State", number: int) -> Point:
        batch, device = len(state.latents), state.latents.device
        return self.point(state.latents, torch.full((batch,), number, device=device))

    def _after(self, state: "_State", number: int, stepped: Stepped) -> "_State":
        point = self._point(state, number)
        latents = stepped_on(point, stepped.velocity.detach(), point.r)
        return _State(latents, stepped.kept)


class _State(NamedTuple):
    """Latents of a trajectory between two steps, and the branches that are cached."""

    latents: Tensor
    cached: tuple[Kept, ...]
