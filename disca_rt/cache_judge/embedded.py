"""The embedded model as subjects: the base at 50 steps with guidance, the distilled one at 20."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..cache.kept import StateBytes, kept_bytes
from ..cache.plan import Setting, StepPlan
from ..cache.policy import Policy
from ..pipeline.runtime import Runtime
from ..schedule import preset
from ..tiny.codec import PixelUnshuffleCodec
from ..tiny.config import SHIFT
from ..tiny.evaluate import NOISE_SEED, SIZE, calibration_of, resolved
from ..tiny.ladder import BASE, RESTRICTED, Rung, digests, load_rung
from ..tiny.prompts import encode
from ..tiny.rung_cost import passes, seconds_per_clip
from ..tiny.workers import Workers
from ..work.flops import sample_flops
from .similarity import eight_bits
from .subject import UNCACHED, Clip

ROUNDS = 3  # of timing

SUBJECTS = {
    "base": Rung("base, 50 steps x 2", (), BASE, preset(50, SHIFT)),
    "distilled": Rung(
        "distilled, 20 steps", (), RESTRICTED, preset(20, SHIFT), predictor="predictor"
    ),
}
"""The ways of sampling that caches are judged on."""


class Embedded:
    """One checkpoint of the ladder, at `steps` steps, over held-out `prompts`."""

    def __init__(
        self, name: str, folders: Sequence[Path], prompts: Sequence[str], workers: Workers
    ) -> None:
        rung = SUBJECTS[name]
        self.name, self.title, self.prompts = name, rung.name, prompts
        self._rung, self._folders, self._workers = rung, tuple(folders), workers
        self._traces: dict[int, list[Tensor]] = {}
        self.steps = rung.schedule.steps
        found = calibration_of(self._runtime, rung.schedule, rung.guidance_scale)
        self._latents = PixelUnshuffleCodec().latent_shape(**SIZE)
        self.facts = {
            "subject": name,
            "prompts": len(prompts),
            "steps": rung.schedule.steps,
            "seed": NOISE_SEED,
            "weights": digests([rung], folders),
            "calibration": found and found.digest,
        }

    def check(self, policy: str) -> None:
        self._policy(policy)

    def clips(self, policy: str, first: int) -> Iterator[Clip]:
        judged = self._workers.generate(self._with(policy), self.prompts[first:], first)
        for mark, latents, video, plans in zip(
            judged.marks, judged.latents, judged.video, judged.plans, strict=True
        ):
            scores = {
                "semantic": mark.semantic,
                "quality": mark.quality,
                "correct": float(mark.correct),
            }
            yield Clip(latents, eight_bits(video), plans, scores)

    def flops(self, policy: str, plans: Sequence[StepPlan], number: int) -> int:
        return sample_flops(
            self._policy(policy), plans, self._runtime.config, self._latents, self._text(number)
        )

    def known_plans(self, policy: str) -> tuple[StepPlan, ...] | None:
        built = self._policy(policy)
        return built.known_plans(self._setting(len(built.slots)))

    def drifts(self, policy: str, first: int, count: int) -> Iterator[tuple[int, list[float]]]:
        for number in range(first, first + count):
            uncached = self._uncached(number)
            pairs = zip(self._trace(policy, number), uncached, strict=True)
            size = uncached[-1].norm()
            yield number, [0.0, *((a - b).norm().div(size).item() for a, b in pairs)]

    def step_flops(self, number: int) -> int:
        policy = self._policy(UNCACHED)
        return self.flops(UNCACHED, policy.known_plans(self._setting(0))[:1], number)

    def state(self, policy: str) -> StateBytes:
        latents = 1, *self._latents
        prepared = self._runtime.dit.prepare(encode(self.prompts[:1]), latents)
        shape = self._runtime.denoiser.shape(latents, [prepared] * passes(self._runtime.config))
        return kept_bytes(self._policy(policy), shape)

    def seconds(self, policies: Sequence[str]) -> list[float]:
        rungs = [self._with(policy) for policy in policies]
        return seconds_per_clip(rungs, [self._runtime] * len(rungs), ROUNDS)

    def _setting(self, slots: int) -> Setting:
        return Setting(tuple(self._rung.schedule.schedule), passes(self._runtime.config), slots)

    def _uncached(self, number: int) -> list[Tensor]:
        if number not in self._traces:
            self._traces[number] = self._trace(UNCACHED, number)
        return self._traces[number]

    def _trace(self, policy: str, number: int) -> list[Tensor]:
        """The latents after each step."""
        seen: list[Tensor] = []
        self._runtime.generate(
            self.prompts[number],
            **SIZE,
            schedule=self._rung.schedule,
            policy=policy,
            guidance_scale=self._rung.guidance_scale,
            seed=NOISE_SEED + number,
            on_step=lambda event: seen.append(event.latents.clone()),
        )
        return seen

    @cached_property
    def _runtime(self) -> Runtime:
        device, calibration = torch.device("cpu"), self._workers.calibration
        return load_rung(self._rung, self._folders, device, calibration)

    def _with(self, policy: str) -> Rung:
        return replace(self._rung, name=f"{self.name} {policy}", policy=policy)

    def _policy(self, policy: str) -> Policy:
        rung = self._rung
        return resolved(self._runtime, rung.schedule, policy, rung.guidance_scale)[1]

    def _text(self, number: int) -> tuple[int, ...]:
        """Text tokens of each pass; the empty prompt has one."""
        tokens = int(encode([self.prompts[number]]).text_mask.sum())
        return (tokens, 1)[: passes(self._runtime.config)]
