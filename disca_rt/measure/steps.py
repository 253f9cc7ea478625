"""Both kinds of step and a whole sample of one runtime, over inputs that stay: what is timed.

A step goes from latents to the next latents as in the denoising loop, without its bookkeeping.
Knows no clock and no rival.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..cache.policy import CachePolicy
from ..conditioning import Conditioning
from ..graphs.runner import GraphRunner
from ..models.dit import StepInputs
from ..pipeline.fit import DEFAULT_GUIDANCE
from ..pipeline.pipeline import Sample
from ..pipeline.runtime import Runtime
from ..sampling.engine import Guidance, Sampler, StepEvent, step_table
from ..schedule import Schedule, Step
from ..work.flops import image_tokens


@dataclass(frozen=True)
class Subject:
    """What runs: `policy` over `schedule`, from noise of `latent_shape`.

    With `negative` a step has two passes: classifier-free guidance.
    """

    runtime: Runtime
    conditioning: Conditioning
    latent_shape: tuple[int, int, int, int]
    policy: CachePolicy
    schedule: Schedule
    negative: Conditioning | None = None

    @property
    def passes(self) -> list[Conditioning]:
        """The conditionings of a step's passes."""
        return [self.conditioning] + ([] if self.negative is None else [self.negative])

    @property
    def tokens(self) -> list[torch.Size]:
        """Joint tokens `[B, S, C]` of this rank, of each pass."""
        dit = self.runtime.dit
        image = image_tokens(dit.config, self.latent_shape)
        shares = [dit.sharding.share(image, each.tokens) for each in self.passes]
        return [torch.Size([self.conditioning.batch, n, dit.config.hidden]) for n in shares]

    def captured(self, graphs: GraphRunner) -> "Subject":
        """The same models, with buffers of its own, by `graphs`."""
        return replace(self, runtime=self.runtime.twin(graphs=graphs))

    def sample(
        self, schedule: Schedule | None = None, on_step: Callable[[StepEvent], None] | None = None
    ) -> Sample:
        """By its own schedule, or another."""
        return self.runtime.sample(
            self.conditioning,
            schedule=schedule or self.schedule,
            policy=self.policy,
            latent_shape=self.latent_shape,
            negative=self.negative,
            on_step=on_step,
        )


class Steps:
    """The first full step of a schedule, and its first predicted one where it has any.

    A policy that needs several full steps extrapolates from one here; in a sample it has them all.
    With `graphs` a step is captured at its second run.
    """

    def __init__(self, subject: Subject, graphs: GraphRunner | None = None) -> None:
        self._graphs = graphs
        dit, policy, steps = subject.runtime.dit, subject.policy, list(subject.schedule)
        noise = torch.randn(1, *subject.latent_shape, generator=torch.Generator().manual_seed(0))
        self._latents = dit.sharding.from_first_rank(noise.to(dit.device))
        self._prepared = [dit.prepare(each, noise.shape) for each in subject.passes]
        self._policy = policy
        self._states = [policy.allocate(each, dit.dtype, dit.device) for each in subject.tokens]
        mixing = None if subject.negative is None else DEFAULT_GUIDANCE
        self._sampler = Sampler(dit, policy, self._states, mixing)
        embedded = DEFAULT_GUIDANCE if dit.config.guidance_embed else None
        table = step_table(subject.schedule, Guidance(embedded), 1, dit)
        self._rows = {step: table.row(step) for step in steps}
        self._full = next(step for step in steps if step.is_full)
        self._predicted = next((step for step in steps if not step.is_full), None)

    @property
    def has_predicted(self) -> bool:
        return self._predicted is not None

    @property
    def latents(self) -> Tensor:
        return self._latents

    def full(self) -> Tensor:
        for state in self._states:
            self._policy.reset(state)
        return self._run(self._full)

    def predicted(self) -> Tensor:
        """After at least one full step."""
        return self._run(self._predicted)

    def scalars(self, step: Step | None = None) -> StepInputs:
        """What the model is fed at `step`, by default the first full one."""
        return self._rows[step or self._full].inputs

    def euler(self, velocities: Sequence[Tensor]) -> Tensor:
        """The end of a step for a model that gives velocity `[1, C, T, H, W]` in each pass."""
        velocity = velocities[-1].float()
        if len(velocities) == 2:
            velocity = velocity + DEFAULT_GUIDANCE * (velocities[0].float() - velocity)
        return self._latents + velocity * self._rows[self._full].dt

    def _run(self, step: Step) -> Tensor:
        sampler = self._sampler
        inputs = self._latents, self._rows[step], self._prepared
        if self._graphs is None:
            return sampler.step(step, *inputs)[1]
        kinds = sampler.decide(step)
        key = kinds, sampler.key()
        decided_step = partial(sampler.decided_step, kinds)
        return self._graphs.run(key, decided_step, *inputs, over=sampler.over)


def shortened(schedule: Schedule) -> Schedule:
    """Two full steps and three that need not be: a sample in small, or as few as there are."""
    if schedule.full_steps == schedule.steps:
        steps = min(schedule.steps, 2)
        return Schedule(steps, schedule.shift, tuple(range(steps)))
    return Schedule(5, schedule.shift, (0, 2))
