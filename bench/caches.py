"""Static cache methods against their speed-up by FLOPs, on the embedded model, from noise on.

Two forms. As comparisons (`bench.run --only caches`) each method is a contender beside the uncached
sample, whose goal is 0.97 of the speed-up that its FLOPs promise. `python -m bench.caches` tells
where the rest goes, in CPU time of one thread, which neighbours disturb least: each step's is the
least of several turns, taken by turns with the uncached sample's. Beside the speed-up by FLOPs it
tells the one by FLOPs and bytes: what the fused ops of a step have to move beyond its share of an
uncached step's, at the rate of a copy. On the 13B model those bytes are a thousandth of a step's
time; here, where a step multiplies little, they are not.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch

from disca_rt.cache_judge.embedded import SUBJECTS
from disca_rt.kernels.ops import Ops, default_ops, get_ops
from disca_rt.markdown import table_lines
from disca_rt.measure.ceilings import measure_ceilings
from disca_rt.measure.harness import Comparison, Contender
from disca_rt.measure.steps import Subject
from disca_rt.profiling.marked import marked_ops
from disca_rt.profiling.ranges import Ranges
from disca_rt.tiny.clips import FRAMES, HEIGHT, WIDTH
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.tiny.ladder import FOLDERS, load_rung
from disca_rt.tiny.prompts import encode
from disca_rt.work.flops import image_tokens

CPU = torch.device("cpu")
OF_THEORY = 0.97  # our goal: of the speed-up by FLOPs
FULL = 0.999  # share of an uncached step's FLOPs from which on a step computes everything
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


def subject(
    name: str,
    policy: str,
    latents: tuple[int, int, int, int] = LATENTS,
    ops: Ops | None = None,
) -> Subject:
    """The base at 50 steps with guidance, or the distilled model at 20."""
    rung = SUBJECTS[name]
    runtime = load_rung(rung, FOLDERS, CPU, ops=ops)
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


HEADER = (
    "method",
    "by FLOPs",
    "and bytes",
    "actual",
    "of FLOPs",
    "of both",
    "full step",
    "cheap step",
    "by FLOPs",
    "and bytes",
)


class MovedBytes:
    """Counter of the bytes that the fused ops of each step have to move, by a run of its own."""

    def __init__(self, name: str, latents: tuple[int, int, int, int] = LATENTS) -> None:
        self._ranges = Ranges(CPU)
        ops = marked_ops(get_ops(default_ops(CPU), CPU), self._ranges)
        self._subject = subject(name, "full", latents, ops)

    def __call__(self, policy: str) -> list[int]:
        ends = [0]
        with self._ranges.recording():
            sampled = replace(self._subject, policy=policy)
            sampled.sample(on_step=lambda event: ends.append(len(self._ranges.works)))
        works = self._ranges.works
        return [sum(work.minimum_bytes for work in works[a:b]) for a, b in pairwise(ends)]


class Told(NamedTuple):
    """One method: speed-ups, and shares of an uncached step by theory and by time.

    Speed-ups are of a sample: `by_flops`, `by_both` with bytes at the rate of a copy, `actual`.
    `full` is the time of a step that computes everything, `cheap`, `cheap_flops` and `cheap_both`
    those of the median one that does not, all over the median uncached step's.
    """

    policy: str
    by_flops: float
    by_both: float
    actual: float
    full: float
    cheap: float
    cheap_flops: float
    cheap_both: float


class Clock:
    """Measurer of methods by turns with the uncached sample of model `name`."""

    def __init__(
        self, name: str, rounds: int, latents: tuple[int, int, int, int] = LATENTS
    ) -> None:
        self._full, self._rounds = subject(name, "full", latents), rounds
        self._moved = MovedBytes(name, latents)
        self._uncached_bytes = median(self._moved("full"))
        self._bytes_per_s = measure_ceilings(CPU, torch.float32).bytes_per_s

    def told(self, policy: str) -> Told:
        """Measures `policy`; ValueError where its plans depend on what it measures."""
        cached = replace(self._full, policy=policy)
        if cached.plans is None:
            raise ValueError(f"policy {policy} measures, so that its FLOPs are not known before")
        uncached, seconds = self._least_seconds(cached)
        whole, step = self._full.flops_of(self._full.plans[:1]), median(uncached)
        flops = [cached.flops_of([plan]) / whole for plan in cached.plans]
        extra = [
            max(0, moved - share * self._uncached_bytes) / self._bytes_per_s / step
            for moved, share in zip(self._moved(policy), flops, strict=True)
        ]
        both = [share + more for share, more in zip(flops, extra, strict=True)]
        steps = [*zip((each / step for each in seconds), flops, both, strict=True)]
        full = [each[0] for each in steps[1:] if each[1] >= FULL]
        cheap = sorted(each for each in steps[1:] if each[1] < FULL)
        return Told(
            policy,
            len(flops) / sum(flops),
            len(flops) / sum(both),
            sum(uncached) / sum(seconds),
            median(full) if full else math.nan,
            *(cheap[len(cheap) // 2] if cheap else (math.nan,) * 3),
        )

    def _least_seconds(self, cached: Subject) -> list[list[float]]:
        """CPU seconds of each step, uncached and cached, the least of several turns."""
        both = self._full, cached
        turns = [[_step_seconds(each) for each in both] for _ in range(self._rounds)]
        samples = zip(*turns, strict=True)
        return [[min(each) for each in zip(*some, strict=True)] for some in samples]


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
    clock = Clock(args.model, args.rounds)
    rows = []
    for policy in args.policies or methods(args.model):
        row = clock.told(policy)
        speedups = f"{row.by_flops:.2f}x", f"{row.by_both:.2f}x", f"{row.actual:.2f}x"
        shares = f"{row.actual / row.by_flops:.3f}", f"{row.actual / row.by_both:.3f}"
        steps = f"{row.full:.3f}", f"{row.cheap:.4f}", f"{row.cheap_flops:.4f}"
        rows.append((policy, *speedups, *shares, *steps, f"{row.cheap_both:.4f}"))
        print(*rows[-1], flush=True)
    print("\n".join(table_lines(HEADER, rows)))


if __name__ == "__main__":
    main()
