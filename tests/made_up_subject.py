"""A subject without a model: samples are a reference and a known error, by the policy."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cache_draws import CONFIG, OPS
from disca_rt.cache.kept import StateBytes
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache_judge.similarity import eight_bits
from disca_rt.cache_judge.subject import UNCACHED, Clip
from disca_rt.schedule import shifted
from disca_rt.work.flops import sample_flops

PARTS = Parts(CONFIG, OPS, sketched(CONFIG).predictor)
SHAPE = 2, 2, 4, 4
WEIGHTS = {"reuse": 1.0, "taylor": 0.25}


class MadeUp:
    """Each predicted step adds an error that grows with its distance from the last full step.

    It also depends on the step: early ones weigh twice as much. `sampled` notes what was asked for.
    """

    name, title = "made-up", "made-up, 8 steps"

    def __init__(self, prompts: int = 3, steps: int = 8) -> None:
        self.prompts = [f"prompt {number}" for number in range(prompts)]
        self.steps, self.facts = steps, {"prompts": prompts, "steps": steps}
        self.sampled: list[tuple[str, int]] = []
        self.stop_after: int | None = None

    def check(self, policy: str) -> None:
        self.known_plans(policy)

    def known_plans(self, policy: str) -> tuple[StepPlan, ...]:
        built = build_policy(policy, PARTS)
        setting = Setting(tuple(shifted(self.steps, 3.0)), 1, len(built.slots))
        built.rule.start(setting)
        return built.known_plans(setting)

    def clips(self, policy: str, first: int) -> Iterator[Clip]:
        for number in range(first, len(self.prompts)):
            if self.stop_after is not None and len(self.sampled) >= self.stop_after:
                raise KeyboardInterrupt
            self.sampled.append((policy, number))
            latents = self._reference(number)
            latents = latents + self.errors(policy, number)[-1] * latents.roll(1, -1)
            video = latents[:1].sigmoid().repeat(3, 1, 1, 1).repeat(1, 1, 3, 3)
            yield Clip(latents, eight_bits(video), self.known_plans(policy), {"semantic": 0.5})

    def errors(self, policy: str, number: int) -> list[float]:
        """The error before each step and at the end."""
        weight, total, since, errors = WEIGHTS.get(policy.partition(":")[0], 0.0), 0.0, 0, [0.0]
        for index, plan in enumerate(self.known_plans(policy)):
            since = 0 if plan.label == "full" else since + 1
            total += weight * since**2 * (2 if index < self.steps // 2 else 1) / 100 * (1 + number)
            errors.append(total)
        return errors

    def drifts(self, policy: str, first: int, count: int) -> Iterator[tuple[int, list[float]]]:
        for number in range(first, first + count):
            yield number, self.errors(policy, number)

    def flops(self, policy: str, plans: Sequence[StepPlan], number: int) -> int:
        return sample_flops(build_policy(policy, PARTS), plans, CONFIG, SHAPE, (3,))

    def step_flops(self, number: int) -> int:
        return self.flops(UNCACHED, self.known_plans(UNCACHED)[:1], number)

    def state(self, policy: str) -> StateBytes:
        return StateBytes(1000, 0)

    def seconds(self, policies: Sequence[str]) -> list[float]:
        return [float(self.flops(each, self.known_plans(each), 0)) for each in policies]

    def _reference(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(SHAPE, generator=generator)
