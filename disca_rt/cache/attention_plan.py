"""DiTFastAttn's plans: a way of attention for each step and block, their file, and how one is made.

The authors' names of the ways are kept. Knows no model: who makes a plan runs it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from ..atomic import write_whole

FULL, REUSE, WINDOW, SHARED = "full_attn", "output_share", "residual_window_attn", "cfg_attn_share"
CANDIDATES = REUSE, f"{WINDOW}+{SHARED}", WINDOW, f"{FULL}+{SHARED}"
WAYS = FULL, *CANDIDATES
MOST_CAREFUL = *CANDIDATES, FULL
"""All ways, those that save most first."""


Ways = tuple[tuple[str, ...], ...]
"""A way of attention for each block of each step, as a calibration has them."""


class AttentionPlan(NamedTuple):
    """`ways[step][block]`, each one of `WAYS`."""

    ways: Ways

    @property
    def blocks(self) -> int:
        return len(self.ways[0])

    def has(self, part: str) -> bool:
        """True where `part` is some block's way, or of it, in some step."""
        return any(part in way for of_step in self.ways for way in of_step)


def check_plan(plan: AttentionPlan) -> None:
    """Raises ValueError unless the first step is full and all ways are known."""
    if not plan.ways or len({len(of_step) for of_step in plan.ways}) != 1 or not plan.blocks:
        raise ValueError("plan must have as many blocks in each step, and one or more steps")
    unknown = [way for of_step in plan.ways for way in of_step if way not in WAYS]
    if unknown:
        raise ValueError(f"plan must be of {list(WAYS)}, got {unknown[0]!r}")
    if set(plan.ways[0]) != {FULL}:
        raise ValueError(f"plan must be {FULL} in its first step (nothing is cached before)")


def read_plan(path: str | Path) -> AttentionPlan:
    """The plan of a file; ValueError names what is wrong with it."""
    try:
        ways = json.loads(Path(path).read_text())["ways"]
        plan = AttentionPlan(tuple(tuple(map(str, of_step)) for of_step in ways))
        check_plan(plan)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"plan {path} cannot be read: {error}; make it anew") from error
    return plan


def as_plan(plan: str | Ways | AttentionPlan) -> AttentionPlan:
    """The plan of a file, or of a calibration's ways by step and block, or itself."""
    if isinstance(plan, str):
        return read_plan(plan)
    if not isinstance(plan, AttentionPlan):
        plan = AttentionPlan(plan)
        check_plan(plan)
    return plan


def write_plan(plan: AttentionPlan, path: str | Path) -> None:
    """Writes a file for `read_plan`: JSON, `{"ways": [[way of each block] of each step]}`."""
    check_plan(plan)
    write_whole(Path(path), lambda file: file.write_text(json.dumps({"ways": plan.ways})))


class Trials(Protocol):
    """A sample under way, of which each step can be tried in several ways."""

    def output(self, step: int, ways: tuple[str, ...]) -> Tensor:
        """The model's output in step number `step` by `ways`; nothing moves on."""

    def advance(self, step: int, ways: tuple[str, ...]) -> None:
        """Runs the step by `ways`, keeps what full attentions keep, and goes on to the next."""


def compression_loss(output: Tensor, tried: Tensor) -> float:
    """mean clip(|a - b| / (max(a, b) + 1e-6), 0, 10), as the authors have it.

    max(a, b) has a sign, as it has there: an element whose larger value is just below zero counts
    by up to 10, however small its change.
    """
    a, b = output.float(), tried.float()
    return ((a - b) / (a.maximum(b) + 1e-6)).abs().clamp(0, 10).mean().item()


def fit_plan(
    trials: Trials,
    steps: int,
    blocks: int,
    threshold: float,
    candidates: Sequence[str] = CANDIDATES,
    loss: Callable[[Tensor, Tensor], float] = compression_loss,
) -> AttentionPlan:
    """The authors' greedy plan: in each step, block by block, the first way that is good enough.

    A way is taken where the step's output, by it and by what was taken for blocks before, changes
    by less than `threshold`·(block + 1)/blocks against that of full attention. With one pass leave
    out the candidates that share between passes.
    """
    full = (FULL,) * blocks
    found = [full]
    trials.advance(0, full)
    for step in range(1, steps):
        ways, output = list(full), trials.output(step, full)
        for block in range(blocks):
            bound = threshold * (block + 1) / blocks
            for way in candidates:
                tried = (*ways[:block], way, *ways[block + 1 :])
                if loss(output, trials.output(step, tried)) < bound:
                    ways[block] = way
                    break
        found.append(tuple(ways))
        trials.advance(step, found[-1])
    return AttentionPlan(tuple(found))
