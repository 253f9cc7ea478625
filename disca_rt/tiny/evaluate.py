"""How often the embedded model shows what a prompt says: held-out prompts, fixed seeds, a judge."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..pipeline.runtime import Runtime
from ..schedule import Preset
from .clips import FRAMES, HEIGHT, WIDTH
from .config import GUIDANCE_SCALE, SCHEDULE
from .judge import Verdict, judge
from .prompts import parse

PROMPT_SEED = 0
NOISE_SEED = 10_000  # prompt i starts from the noise of seed NOISE_SEED + i
BATCH = 10
SIZE = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH}


@dataclass(frozen=True)
class Clip:
    """One prompt's result; scores are in [0, 1]. `correct`: everything that it names is right."""

    prompt: str
    correct: bool
    semantic: float
    quality: float
    total: float

    def line(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Generated:
    """All prompts in order: `clips`, `latents [N, C, T, H, W]`, `video`."""

    clips: tuple[Clip, ...]
    latents: Tensor
    video: Tensor


def generate_and_judge(
    runtime: Runtime,
    prompts: Sequence[str],
    schedule: Preset = SCHEDULE,
    policy: str = "full",
    guidance_scale: float = GUIDANCE_SCALE,
    batch: int = BATCH,
    first: int = 0,
) -> Generated:
    """One clip per prompt, judged; a batch changes nothing but the speed.

    `first` is the place of the first prompt among all: with its prompt goes its noise.
    """
    clips: list[Clip] = []
    samples = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        sample = runtime.generate(
            part,
            **SIZE,
            schedule=schedule,
            policy=policy,
            guidance_scale=guidance_scale,
            seed=NOISE_SEED + first + start,
        )
        samples.append(sample)
        pairs = zip(part, sample.video, strict=True)
        clips += [_clip(prompt, judge(video, parse(prompt))) for prompt, video in pairs]
    latents = torch.cat([sample.latents.cpu() for sample in samples])
    video = torch.cat([sample.video.cpu() for sample in samples])
    return Generated(tuple(clips), latents, video)


def joined(parts: Sequence[Generated]) -> Generated:
    """The results of consecutive prompts as those of all."""
    return Generated(
        tuple(clip for part in parts for clip in part.clips),
        torch.cat([part.latents for part in parts]),
        torch.cat([part.video for part in parts]),
    )


def relative_l2(latents: Tensor, reference: Tensor) -> list[float]:
    """‖a − b‖/‖b‖ of each sample of `[N, ...]`."""
    difference = (latents - reference).flatten(1).norm(dim=1)
    return (difference / reference.flatten(1).norm(dim=1)).tolist()


def _clip(prompt: str, verdict: Verdict) -> Clip:
    return Clip(prompt, verdict.correct, verdict.semantic, verdict.quality, verdict.total)
