"""How often the embedded model shows what a prompt says: held-out prompts, fixed seeds, a judge.

`python -m disca_rt.tiny.evaluate [--dit FILE] [--prompts 300]` prints the shares.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..runtime.runtime import Runtime
from ..schedule import Schedule
from .clips import FRAMES, HEIGHT, WIDTH
from .config import GUIDANCE_SCALE, SCHEDULE
from .judge import Verdict, judge
from .prompts import held_out_prompts, parse
from .runtime import WEIGHTS, with_tiny_prompts

PROMPT_SEED = 0
NOISE_SEED = 10_000  # prompt i starts from the noise of seed NOISE_SEED + i


@dataclass(frozen=True)
class Report:
    """Means over the prompts, each in [0, 1]; `correct`: everything the prompt names is right."""

    prompts: int
    correct: float
    correct_single: float
    correct_double: float
    semantic: float
    quality: float


def evaluate(
    runtime: Runtime,
    prompts: Sequence[str],
    schedule: Schedule = SCHEDULE,
    policy: str = "full",
    guidance_scale: float = GUIDANCE_SCALE,
    batch: int = 10,
) -> Report:
    """Generate one clip per prompt and judge it; a batch changes nothing but the speed."""
    verdicts: list[Verdict] = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        sample = runtime.generate(
            part,
            frames=FRAMES,
            height=HEIGHT,
            width=WIDTH,
            schedule=schedule,
            policy=policy,
            guidance_scale=guidance_scale,
            seed=NOISE_SEED + start,
        )
        verdicts += [judge(v, parse(p)) for v, p in zip(sample.video, part, strict=True)]
    return _report(verdicts)


def _report(verdicts: Sequence[Verdict]) -> Report:
    single = [v for v in verdicts if len(v.colour) == 1]
    double = [v for v in verdicts if len(v.colour) == 2]
    return Report(
        prompts=len(verdicts),
        correct=_mean([v.correct for v in verdicts]),
        correct_single=_mean([v.correct for v in single]),
        correct_double=_mean([v.correct for v in double]),
        semantic=_mean([v.semantic for v in verdicts]),
        quality=_mean([v.quality for v in verdicts]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dit", type=Path, default=WEIGHTS)
    parser.add_argument("--prompts", type=int, default=300)
    args = parser.parse_args()
    runtime = with_tiny_prompts(Runtime.load(args.dit, dtype=torch.float32))
    print(evaluate(runtime, held_out_prompts(args.prompts, PROMPT_SEED)))


if __name__ == "__main__":
    main()
