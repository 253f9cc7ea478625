"""Runs rungs of the ladder over the same prompts and noise, and gives what the tables need.

A result is plain lines, as they stand in the JSONL; nothing is printed or drawn here.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cache.build import build_policy
from ..config import DiTConfig, predictor_config
from ..flops import image_tokens, sample_flops, step_flops
from ..runtime.memory import PeakMemory
from ..runtime.runtime import Runtime
from .codec import PixelUnshuffleCodec
from .evaluate import NOISE_SEED, SIZE, Generated, relative_l2
from .ladder import COMPARISONS, TEACHER, Rung, load_rung, rung_weights
from .prompts import encode
from .statistics import mean_interval, paired_difference
from .workers import Workers

SCORES = "semantic", "quality", "total", "correct", "relative_l2", "teacher_l2"


class LadderRun:
    """`lines` are the results once `run` is over; `videos` holds what the picture sheet shows."""

    def __init__(
        self, folders: Sequence[Path], prompts: Sequence[str], device: torch.device, shown: int
    ) -> None:
        self.folders, self.prompts, self.device, self.shown = folders, prompts, device, shown
        self.lines: list[dict[str, Any]] = []
        self.videos: dict[str, Tensor] = {}
        self._latents: dict[str, Tensor] = {}
        self._clips: dict[str, list[dict[str, Any]]] = {}
        self._text_tokens = round(encode(prompts).text_mask.sum(1).float().mean().item())

    def run(self, rungs: Sequence[Rung], workers: Workers, on_rung: Callable[[Rung], None]) -> None:
        """All `rungs` in order, then their comparisons; the first is what speed-ups refer to."""
        for rung in rungs:
            rung_weights(rung, self.folders)  # before an hour is spent, not after it
        rows = []
        for rung in rungs:
            on_rung(rung)
            runtime = load_rung(rung, self.folders, self.device)
            used = memory(rung, runtime)
            generated = workers.generate(rung, self.prompts)
            self._keep(rung, generated)
            rows.append(self._row(rung, runtime.config, generated) | used)
        for rung, row in zip(rungs, rows, strict=True):
            self._measure_distances(rung)
            row["speedup_theoretical"] = rows[0]["gflop"] / row["gflop"]
            row["speedup_measured"] = rows[0]["seconds_per_clip"] / row["seconds_per_clip"]
            row |= self._means(rung)
        clips = [line for each in self._clips.values() for line in each]
        self.lines = [*rows, *self._comparisons(), *clips]

    def _keep(self, rung: Rung, generated: Generated) -> None:
        self.videos[rung.name] = generated.video[: self.shown]
        self._latents[rung.name] = generated.latents
        self._clips[rung.name] = [
            {"kind": "clip", "rung": rung.name, **clip.line(), "correct": float(clip.correct)}
            for clip in generated.clips
        ]

    def _row(self, rung: Rung, config: DiTConfig, generated: Generated) -> dict[str, Any]:
        schedule, times = rung.schedule, passes(config)
        full = schedule.full_steps
        return {
            "kind": "rung",
            "name": rung.name,
            "tables": list(rung.tables),
            "full_steps": full * times,
            "predicted_steps": (schedule.steps - full) * times,
            "gflop": rung_flops(rung, config, self._text_tokens) / 1e9,
            "seconds_per_clip": generated.seconds / len(generated.clips),
        }

    def _measure_distances(self, rung: Rung) -> None:
        """Of every clip, to the rungs that its own is compared with, where they ran."""
        references = {"relative_l2": rung.reference, "teacher_l2": rung.reference and TEACHER}
        for name, reference in references.items():
            if reference in self._latents:
                distances = relative_l2(self._latents[rung.name], self._latents[reference])
                for clip, distance in zip(self._clips[rung.name], distances, strict=True):
                    clip[name] = distance

    def _means(self, rung: Rung) -> dict[str, dict[str, float]]:
        clips = self._clips[rung.name]
        return {
            score: mean_interval([clip[score] for clip in clips])._asdict()
            for score in SCORES
            if score in clips[0]
        }

    def _comparisons(self) -> Iterator[dict[str, Any]]:
        for goal in COMPARISONS:
            if goal.first not in self._clips or goal.second not in self._clips:
                continue
            ours, theirs = self._clips[goal.first], self._clips[goal.second]
            differences = {
                score: paired_difference(
                    [clip[score] for clip in ours], [clip[score] for clip in theirs]
                )._asdict()
                for score in ("semantic", "quality", "total", "correct", goal.distance)
                if score is not None and score in ours[0] and score in theirs[0]
            }
            yield {"kind": "comparison", **goal._asdict(), **differences}


def passes(config: DiTConfig) -> int:
    """Forwards per step: two under classifier-free guidance, one where guidance is embedded."""
    return 1 if config.guidance_embed else 2


def rung_flops(rung: Rung, config: DiTConfig, text_tokens: int) -> int:
    """Of one clip whose prompt has `text_tokens`; the unconditional pass has one."""
    shape = PixelUnshuffleCodec().latent_shape(**SIZE)
    of_passes = [
        step_flops(config, predictor_config(config), shape, tokens)
        for tokens in (text_tokens, 1)[: passes(config)]
    ]
    return sum(sample_flops(step, rung.schedule, policy=rung.policy) for step in of_passes)


def memory(rung: Rung, runtime: Runtime) -> dict[str, int]:
    """Peak bytes of one clip's sampling beyond the weights, and what its policy keeps of them."""
    prompt = "a small red circle moving left on a black background"
    peak = PeakMemory(runtime.dit.device)
    with peak:
        runtime.generate(
            prompt,
            **SIZE,
            schedule=rung.schedule,
            policy=rung.policy,
            guidance_scale=rung.guidance_scale,
            seed=NOISE_SEED,
        )
    text = int(encode([prompt]).text_mask.sum())
    img = image_tokens(runtime.config, PixelUnshuffleCodec().latent_shape(**SIZE))
    tokens = torch.Size([1, img + text, runtime.config.hidden])
    policy = build_policy(rung.policy, runtime.predictor, runtime.dit.ops)
    cached = passes(runtime.config) * policy.cache_bytes(tokens, runtime.dit.dtype)
    return {"peak_bytes": peak.peak, "cache_bytes": cached}
