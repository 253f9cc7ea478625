"""Subjects of the benchmarks: both kinds of step and a whole sample, over inputs that stay.

A step goes from latents to the next latents as in the denoising loop, without its bookkeeping.
Knows no clock and no rival.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cache.kept import kept_bytes
from ..cache.labels import FULL
from ..cache.plan import Act, Setting, StepPlan
from ..cache.policy import Policy
from ..conditioning import Conditioning
from ..graphs.runner import GraphRunner
from ..models.dit import StepInputs
from ..pipeline.request import Request
from ..pipeline.runtime import Runtime
from ..pipeline.sample import Sample
from ..sampling.guidance import DEFAULT_GUIDANCE, Guidance
from ..sampling.loop import StepEvent
from ..schedule import Preset, Schedule, preset
from ..work.flops import sample_flops


@dataclass(frozen=True)
class Subject:
    """Sample to measure: `policy` over `schedule`, from noise of `latent_shape` (C, T, H, W).

    With `negative` a step has two passes: classifier-free guidance.
    """

    runtime: Runtime
    conditioning: Conditioning
    latent_shape: tuple[int, int, int, int]
    policy: str
    schedule: Preset
    negative: Conditioning | None = None

    @property
    def passes(self) -> list[Conditioning]:
        """Conditionings of a step's passes."""
        return [self.conditioning] + ([] if self.negative is None else [self.negative])

    @property
    def resolved(self) -> tuple[Schedule, Policy]:
        """Noise levels, and the policy as an object."""
        request = Request(
            schedule=self.schedule,
            policy=self.policy,
            conditioning=self.conditioning,
            negative=self.negative,
            latent_shape=self.latent_shape,
        )
        return self.runtime.resolved(request)

    @property
    def plans(self) -> tuple[StepPlan, ...] | None:
        """Plans of all steps, or None where they depend on what will be measured."""
        schedule, policy = self.resolved
        setting = Setting(tuple(schedule), len(self.passes), len(policy.slots))
        return policy.known_plans(setting)

    @property
    def full_steps(self) -> int:
        """Number of full steps, where that is known before the run."""
        plans = self.plans
        if plans is None:
            return self.schedule.full_steps
        return sum(plan.label == FULL for plan in plans)

    @property
    def flops(self) -> int:
        """FLOPs of a sample over all ranks, as if all steps were full where that is not known."""
        if self.plans is None:
            return replace(self, policy="full").flops
        return self.flops_of(self.plans)

    def flops_of(self, plans: Sequence[StepPlan]) -> int:
        """FLOPs of steps by `plans`, over all ranks and passes."""
        text = [each.tokens for each in self.passes]
        config = self.runtime.config
        return sample_flops(self.resolved[1], plans, config, self.latent_shape, text)

    @property
    def runs_network(self) -> bool:
        """True where a stand-in of the policy runs a network, as DisCa's does."""
        return any(slot.stand_in.network is not None for slot in self.resolved[1].slots)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the policy keeps on this rank, all passes together."""
        latents = self.conditioning.batch, *self.latent_shape
        prepared = [self.runtime.dit.prepare(each, latents) for each in self.passes]
        policy = self.resolved[1]
        return kept_bytes(policy, self.runtime.denoiser.shape(latents, prepared, policy)).device

    def captured(self, graphs: GraphRunner) -> "Subject":
        """Subject of the same models, with its own buffers, which `graphs` captures and replays."""
        return replace(self, runtime=self.runtime.twin(graphs=graphs))

    def sample(
        self, schedule: Preset | None = None, on_step: Callable[[StepEvent], None] | None = None
    ) -> Sample:
        """Samples by `schedule`, by default its own."""
        return self.runtime.sample(
            self.conditioning,
            schedule=schedule or self.schedule,
            policy=self.policy,
            latent_shape=self.latent_shape,
            negative=self.negative,
            on_step=on_step,
        )


class Steps:
    """Runner of the first full step of a schedule, and of its first other one if it has any.

    A policy that needs several full steps extrapolates from one here; in a sample it has them all.
    With `graphs` a step is captured at its second run.
    """

    def __init__(self, subject: Subject, graphs: GraphRunner | None = None) -> None:
        denoiser = subject.captured(graphs).runtime.denoiser
        dit, (schedule, policy) = denoiser.dit, subject.resolved
        noise = torch.randn(1, *subject.latent_shape, generator=torch.Generator().manual_seed(0))
        self._latents = denoiser.sharding.from_first_rank(noise.to(dit.device))
        prepared = [dit.prepare(each, noise.shape) for each in subject.passes]
        guidance = Guidance(
            DEFAULT_GUIDANCE if dit.config.guidance_embed else None,
            None if subject.negative is None else DEFAULT_GUIDANCE,
        )
        self._loop = denoiser.loop(noise.shape, prepared, schedule, policy, guidance)
        plans = self._loop.plans or (self._loop.setting.full, self._loop.setting.predicted)
        is_cheap = [any(Act.STAND_IN in acts for acts in plan.passes) for plan in plans]
        self._full = is_cheap.index(False)
        self._predicted = is_cheap.index(True) if True in is_cheap else None
        self._plans = plans

    @property
    def has_predicted(self) -> bool:
        """True where a step of the schedule is not full."""
        return self._predicted is not None

    @property
    def predicted_plan(self) -> StepPlan:
        """The plan of the first step that is not full."""
        return self._plans[self._predicted]

    @property
    def latents(self) -> Tensor:
        return self._latents

    def full(self) -> Tensor:
        """Latents after a full step."""
        return self._run(self._full, ())

    def predicted(self) -> Tensor:
        """Latents after a step that is not full; `full` must have run before."""
        return self._run(self._predicted, (self._full,))

    def scalars(self, index: int | None = None) -> StepInputs:
        """Timestep, r and guidance of step number `index`, by default the first full one."""
        return self._loop.table.inputs(self._full if index is None else index)

    def euler(self, velocities: Sequence[Tensor]) -> Tensor:
        """Latents after a step whose passes gave velocities [1, C, T, H, W]: guidance, Euler."""
        velocity = velocities[-1].float()
        if len(velocities) == 2:
            velocity = velocity + DEFAULT_GUIDANCE * (velocities[0].float() - velocity)
        return self._latents + velocity * self._loop.table.dt[self._full]

    def _run(self, index: int, kept_at: tuple[int, ...]) -> Tensor:
        tensors = self._loop.tensors(index, self._latents, kept_at)
        return self._loop.compute(self._plans[index], {}, tensors).latents


def shortened(schedule: Preset) -> Preset:
    """Short schedule: two full steps and three others, or as few as there are."""
    shift = schedule.shift or 1.0
    if schedule.step_list is None:
        return preset(min(schedule.steps, 2), shift)
    return preset(5, shift, (0, 2))
