"""Static cache methods against their speed-up by FLOPs, on the embedded model, from noise on.

Two forms. As comparisons (`bench.run --only caches`) each method is a contender beside the uncached
sample, whose goal is 0.97 of the speed-up that its FLOPs promise. `python -m bench.caches` tells
where the rest goes, in CPU time of one thread, which neighbours disturb least: each step's is the
least of several turns, taken by turns with the uncached sample's.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch

from disca_rt.cache_judge.embedded import SUBJECTS
from disca_rt.markdown import table_lines
from disca_rt.measure.harness import Comparison, Contender
from disca_rt.measure.steps import Subject
from disca_rt.tiny.clips import FRAMES, HEIGHT, WIDTH
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.tiny.ladder import FOLDERS, load_rung
from disca_rt.tiny.prompts import encode
from disca_rt.work.flops import image_tokens

OF_THEORY = 0.97  # our goal: of the speed-up by FLOPs
PROMPT = "a red circle moving left and a blue square moving up on a black background"
LATENTS = PixelUnshuffleCodec().latent_shape(FRAMES, HEIGHT, WIDTH)

METHODS = (
    "reuse:interval=4",
    "taylor:interval=4",
    "hermite:interval=4",
    "jenga-steps",
    "teacache-1.5",
    "taylorcache-1.5",
    "deepcache-1.5",
    "ab-cache:interval=4",
    "omnicache:interval=4",
    "fora:fresh_threshold=4",
    "pab:disca-n5",
    "delta-dit:interval=4",
    "deepcache",
    "fasterdiffusion",
    "taylorseer:fresh_threshold=4",
    "taylorseer-hidden:fresh_threshold=4",
    "taylorseer-attention",
    "taylorseer-lite",
    "hicache:fresh_threshold=4",
    "foca:fresh_threshold=4",
    "freqca",
)
"""Methods whose plans are known before a run; on the distilled model `disca` joins them."""


def subject(name: str, policy: str, latents: tuple[int, int, int, int] = LATENTS) -> Subject:
    """The base at 50 steps with guidance, or the distilled model at 20."""
    rung = SUBJECTS[name]
    runtime = load_rung(rung, FOLDERS, torch.device("cpu"))
    negative = None if runtime.config.guidance_embed else encode([""])
    return Subject(runtime, encode([PROMPT]), latents, policy, rung.schedule, negative)


def methods(name: str) -> tuple[str, ...]:
    """The methods of the base, or of the distilled model."""
    return METHODS + ("disca:interval=4",) * (name == "distilled")


def samples(
    name: str, chosen: Sequence[str] = (), latents: tuple[int, int, int, int] = LATENTS
) -> Comparison:
    """Comparison of whole samples, without decoding, by each of `chosen` or of all methods."""
    full = subject(name, "full", latents)
    contenders = [Contender("uncached", full.sample, full.flops)]
    for policy in chosen or methods(name):
        cached = replace(full, policy=policy)
        goal = cached.flops / full.flops / OF_THEORY
        contenders.append(Contender(policy, cached.sample, cached.flops, goal=goal))
    shape = {
        "model": name,
        "batch": 1,
        "steps": full.schedule.steps,
        "passes": len(full.passes),
        "image tokens": image_tokens(full.runtime.config, latents),
    }
    return Comparison(f"static caches, {name}", shape, "float32", contenders, samples=5)


class Told(NamedTuple):
    """One method: speed-ups, and shares of an uncached step by FLOPs and by time.

    `by_theory` and `actual` speed-ups are of a sample; `full` is the time of a step that computes
    everything, `cheap` and `cheap_flops` those of the median one that does not, all over the
    median uncached step's.
    """

    policy: str
    by_theory: float
    actual: float
    full: float
    cheap: float
    cheap_flops: float

    @property
    def of_theory(self) -> float:
        return self.actual / self.by_theory


def told(full: Subject, policy: str, rounds: int) -> Told:
    """Measures `policy` by turns with the uncached sample."""
    cached = replace(full, policy=policy)
    plans, least = cached.plans, [[], []]
    if plans is None:
        raise ValueError(f"policy {policy} measures, so that its FLOPs are not known before a run")
    for _ in range(rounds):
        least = [
            [*map(min, known, new)] if known else new
            for known, new in zip(least, map(_step_seconds, (full, cached)), strict=True)
        ]
    uncached, seconds = least
    flops, whole = [cached.flops_of([plan]) for plan in plans], full.flops_of(full.plans[:1])
    step = median(uncached)
    of_kind = [[], []]
    for flop, second in list(zip(flops, seconds, strict=True))[1:]:
        of_kind[flop < whole * 0.999].append((second / step, flop / whole))
    every, cheap = (sorted(each) or [(float("nan"),) * 2] for each in of_kind)
    return Told(
        policy,
        whole * len(plans) / sum(flops),
        sum(uncached) / sum(seconds),
        every[len(every) // 2][0],
        *cheap[len(cheap) // 2],
    )


def _step_seconds(subject: Subject) -> list[float]:
    """CPU seconds of each step."""
    ticks = [time.process_time()]
    subject.sample(on_step=lambda event: ticks.append(time.process_time()))
    return [after - before for before, after in pairwise(ticks)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.caches", description=__doc__)
    parser.add_argument("--model", choices=[*SUBJECTS], default="distilled")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("policies", nargs="*")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    full = subject(args.model, "full")
    header = "method", "by FLOPs", "actual", "of theory", "full step", "cheap step", "by FLOPs"
    rows = []
    for policy in args.policies or methods(args.model):
        row = told(full, policy, args.rounds)
        cells = f"{row.by_theory:.2f}x", f"{row.actual:.2f}x", f"{row.of_theory:.3f}"
        cells += f"{row.full:.3f}", f"{row.cheap:.4f}", f"{row.cheap_flops:.4f}"
        rows.append((policy, *cells))
        print(*rows[-1], flush=True)
    print("\n".join(table_lines(header, rows)))


if __name__ == "__main__":
    main()
