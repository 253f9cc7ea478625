"""Runs rungs of the ladder over the same prompts and noise, and collects what the tables need.

A result is plain lines, as they stand in the JSONL; nothing is printed or drawn here.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pipeline.runtime import Runtime
from .evaluate import JudgedClips, calibration_of, relative_l2
from .ladder import COMPARISONS, TEACHER, WORK_TABLE, Rung, load_rung, rung_weights
from .prompts import encode
from .rung_cost import memory, passes, rung_flops, seconds_per_clip
from .statistics import mean_interval, paired_difference
from .workers import Workers

SCORES = "semantic", "quality", "total", "correct", "relative_l2", "teacher_l2"


class LadderRun:
    """A comparison of rungs over `prompts`: results are in `lines` once `run` is over.

    `videos` holds the first `shown` clips of each rung `[shown, 3, T, H, W]`, for a picture sheet.
    """

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
        """Run `rungs` in order, then compare them; speed-ups refer to the first one.

        ValueError names weights that are missing, before anything runs.
        """
        for rung in rungs:
            rung_weights(rung, self.folders)  # before an hour is spent, not after it
        rows = []
        for rung in rungs:
            on_rung(rung)
            runtime = load_rung(rung, self.folders, self.device)
            used = memory(rung, runtime)
            self._keep(rung, workers.generate(rung, self.prompts))
            rows.append(self._row(rung, runtime) | used)
        for rung, row in zip(rungs, rows, strict=True):
            self._measure_distances(rung)
            row["speedup_theoretical"] = rows[0]["gflop"] / row["gflop"]
            row |= self._means(rung)
        self._measure_speed(rungs, rows)
        clips = [line for each in self._clips.values() for line in each]
        self.lines = [*rows, *self._comparisons(), *clips]

    def _keep(self, rung: Rung, generated: JudgedClips) -> None:
        self.videos[rung.name] = generated.video[: self.shown]
        self._latents[rung.name] = generated.latents
        self._clips[rung.name] = [
            {"kind": "clip", "rung": rung.name, **mark._asdict(), "correct": float(mark.correct)}
            for mark in generated.marks
        ]

    def _row(self, rung: Rung, runtime: Runtime) -> dict[str, Any]:
        schedule, config, times = rung.schedule, runtime.config, passes(runtime.config)
        calibration = calibration_of(runtime, schedule, rung.guidance_scale)
        full = schedule.full_steps
        return {
            "kind": "rung",
            "name": rung.name,
            "tables": list(rung.tables),
            "full_steps": full * times,
            "predicted_steps": (schedule.steps - full) * times,
            "gflop": rung_flops(rung, config, self._text_tokens, calibration) / 1e9,
        }

    def _measure_speed(self, rungs: Sequence[Rung], rows: Sequence[dict[str, Any]]) -> None:
        """Time clips of the rungs whose table shows it, and of the first, in this process."""
        timed = [row for row in rows if row is rows[0] or WORK_TABLE in row["tables"]]
        chosen = [rung for rung, row in zip(rungs, rows, strict=True) if row in timed]
        runtimes = [load_rung(rung, self.folders, self.device) for rung in chosen]
        for row, seconds in zip(timed, seconds_per_clip(chosen, runtimes), strict=True):
            row["seconds_per_clip"] = seconds
            row["speedup_measured"] = timed[0]["seconds_per_clip"] / seconds

    def _measure_distances(self, rung: Rung) -> None:
        """Give each clip of a rung its distances to the clips of its reference and the teacher."""
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
                for score in SCORES
                if score in ours[0] and score in theirs[0]
            }
            yield {"kind": "comparison", **goal._asdict(), **differences}
