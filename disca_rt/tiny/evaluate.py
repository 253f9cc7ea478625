"""Evaluation of the embedded model: clips of held-out prompts and fixed seeds, each judged."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache.calibration import Calibration
from ..cache.plan import StepPlan
from ..cache.policy import Policy
from ..pipeline.request import Request
from ..pipeline.runtime import Runtime
from ..sampling.loop import StepEvent
from ..schedule import Preset, Schedule
from .clips import FRAMES, HEIGHT, WIDTH
from .config import GUIDANCE_SCALE, SCHEDULE
from .judge import judge
from .prompts import parse

PROMPT_SEED = 0
NOISE_SEED = 10_000  # prompt i starts from the noise of seed NOISE_SEED + i
BATCH = 10
SIZE = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH}


class JudgedClip(NamedTuple):
    """Marks of one prompt's clip, scores in [0, 1]; `correct`: all that is named is right."""

    prompt: str
    correct: bool
    semantic: float
    quality: float
    total: float


class JudgedClips(NamedTuple):
    """Clips of N prompts in order: `marks`, `latents [N, C, T, h, w]`, `video [N, 3, T, H, W]`.

    `plans` are those by which the steps of each clip ran.
    """

    marks: tuple[JudgedClip, ...]
    latents: Tensor
    video: Tensor
    plans: tuple[tuple[StepPlan, ...], ...]


def resolved(
    runtime: Runtime, schedule: Preset, policy: str, guidance_scale: float
) -> tuple[Schedule, Policy]:
    """Noise levels and policy of the clips, with options of a calibration that fits them."""
    return runtime.resolved(_request(schedule, policy, guidance_scale))


def calibration_of(runtime: Runtime, schedule: Preset, guidance_scale: float) -> Calibration | None:
    """The calibration that policies of the clips take options from; ValueError as `fitting`."""
    if runtime.calibration is None:
        return None
    asked = _request(schedule, "full", guidance_scale)
    return runtime.calibration.fitting(runtime.subject(asked))


def _request(schedule: Preset, policy: str, guidance_scale: float) -> Request:
    """A request of a clip, but for its prompt."""
    return Request(
        prompts=[""],
        size=(FRAMES, HEIGHT, WIDTH),
        schedule=schedule,
        policy=policy,
        guidance_scale=guidance_scale,
    )


def generate_and_judge(
    runtime: Runtime,
    prompts: Sequence[str],
    schedule: Preset = SCHEDULE,
    policy: str = "full",
    guidance_scale: float = GUIDANCE_SCALE,
    batch: int = BATCH,
    first: int = 0,
) -> JudgedClips:
    """Generate and judge one clip per prompt; `batch` changes nothing but the speed.

    Prompts of a policy that decides by measuring are sampled one by one: a batch would decide
    together. `first` is the place of the first prompt among all that are evaluated: it decides the
    noise.
    """
    if resolved(runtime, schedule, policy, guidance_scale)[1].rule.probes:
        batch = 1
    marks: list[JudgedClip] = []
    samples, plans = [], []
    for start in range(0, len(prompts), batch):
        part, events = prompts[start : start + batch], _Plans()
        sample = runtime.generate(
            part,
            **SIZE,
            schedule=schedule,
            policy=policy,
            guidance_scale=guidance_scale,
            seed=NOISE_SEED + first + start,
            on_step=events,
        )
        plans += [tuple(events.plans)] * len(part)
        samples.append(sample)
        marks += map(_marks, part, sample.video)
    latents = torch.cat([sample.latents.cpu() for sample in samples])
    video = torch.cat([sample.video.cpu() for sample in samples])
    return JudgedClips(tuple(marks), latents, video, tuple(plans))


class _Plans:
    """A callback that notes the plan of each step."""

    def __init__(self) -> None:
        self.plans: list[StepPlan] = []

    def __call__(self, event: StepEvent) -> None:
        self.plans.append(event.plan)


def joined(parts: Sequence[JudgedClips]) -> JudgedClips:
    """Join the clips of consecutive prompts."""
    return JudgedClips(
        tuple(mark for part in parts for mark in part.marks),
        torch.cat([part.latents for part in parts]),
        torch.cat([part.video for part in parts]),
        tuple(plans for part in parts for plans in part.plans),
    )


def relative_l2(latents: Tensor, reference: Tensor) -> list[float]:
    """Distance ‖a − b‖/‖b‖ of each of N samples `a` to its reference `b`, both `[N, ...]`."""
    difference = (latents - reference).flatten(1).norm(dim=1)
    return (difference / reference.flatten(1).norm(dim=1)).tolist()


def _marks(prompt: str, video: Tensor) -> JudgedClip:
    verdict = judge(video, parse(prompt))
    return JudgedClip(prompt, verdict.correct, verdict.semantic, verdict.quality, verdict.total)
