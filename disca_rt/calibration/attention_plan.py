"""DiTFastAttn's plan of one sample: which way of attention each block of each step can have.

The sample is taken step by step; each way is tried for each block, and nothing moves on but by the
ways that are chosen (`cache.attention_plan.fit_plan`). So it takes a step's outputs several times
for each block, where other numbers take a few steps of each.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..cache.attention_plan import (
    CANDIDATES,
    FULL,
    MOST_CAREFUL,
    REUSE,
    SHARED,
    WINDOW,
    AttentionPlan,
    fit_plan,
)
from ..cache.method import Parts
from ..cache.policies import POLICIES
from ..cache.policy import Policy
from ..cache.rules.always import Always
from ..cache.rules.ditfastattn import ByPlan
from ..config import DiTConfig
from ..pipeline.fit import guidance_of
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..sampling.loop import Loop

NAME = "attention"
WAYS = f"{NAME}/ways"

Ways = tuple[str, ...]


def attention_policy(config: DiTConfig, passes: int) -> Policy:
    """The slots of all ways of attention, whose buffers the trials use."""
    blocks = config.double + config.single
    plan = AttentionPlan(((FULL,) * blocks, *_each_way(blocks, passes)))
    slots = POLICIES["ditfastattn"].slots({"plan": plan}, Parts(config))
    return Policy(f"calibrate {NAME}", Always(), slots)


def run_attention(
    pipeline: Pipeline,
    request: Request,
    threshold: float,
    on_step: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """The plan of one sample: "attention/ways" `[steps, blocks]`, numbers in `MOST_CAREFUL`.

    `request` has its noise; `threshold` is the authors' delta.
    """
    denoiser, config = pipeline.denoiser, pipeline.denoiser.dit.config
    schedule, _ = pipeline.resolved(request)
    with torch.no_grad():
        latents = denoiser.sharding.from_first_rank(request.latents.to(denoiser.dit.device))
        prepared = [denoiser.dit.prepare(each, latents.shape) for each in request.conditionings]
        policy = attention_policy(config, len(prepared))
        guidance = guidance_of(request, pipeline.config)
        loop = denoiser.loop(latents.shape, prepared, schedule, policy, guidance)
        trials = _Trials(loop, latents, prepared, on_step)
        candidates = [way for way in CANDIDATES if len(prepared) == 2 or SHARED not in way]
        blocks = config.double + config.single
        plan = fit_plan(trials, len(tuple(schedule)), blocks, threshold, candidates)
    numbers = [[MOST_CAREFUL.index(way) for way in of_step] for of_step in plan.ways]
    return {WAYS: torch.tensor(numbers, dtype=torch.float64)}


class _Trials:
    """A sample under way. A step's output is its guided velocity (a choice: of both passes)."""

    def __init__(
        self,
        loop: Loop,
        latents: Tensor,
        prepared: Sequence,
        on_step: Callable[[int], None] | None,
    ) -> None:
        self._loop, self._latents, self._prepared = loop, latents, prepared
        self._on_step = on_step
        self._found: tuple[Ways, ...] = ()

    def output(self, step: int, ways: Ways) -> Tensor:
        at = self._loop.setting.steps[step]
        moved = self._run(step, ways, keeps=False) - self._latents
        return moved / (at.sigma_next - at.sigma)

    def advance(self, step: int, ways: Ways) -> None:
        # The buffers of a captured result may be the next one's.
        self._latents = self._run(step, ways, keeps=True).clone()
        self._found = (*self._found, ways)
        if self._on_step is not None:
            self._on_step(step)

    def _run(self, step: int, ways: Ways, keeps: bool) -> Tensor:
        """The latents after a step; with `keeps` all is kept that any later way needs."""
        loop, passes = self._loop, len(self._prepared)
        later = _each_way(len(ways), passes)
        full = (FULL,) * len(ways)
        rows = (*later, full) if keeps else (full, *later)
        rule = ByPlan(AttentionPlan((*self._found, ways, *rows)))
        plan = rule.decide(loop.setting, loop.setting.steps[step], {}, None)
        tensors = loop.tensors(step, self._latents, ())
        return loop.sampler.run(plan, {}, tensors, self._prepared).latents


def _each_way(blocks: int, passes: int) -> tuple[Ways, ...]:
    """Rows of a plan that use each way, in the order in which a plan's later rows are looked at."""
    ways = REUSE, WINDOW, *[f"{FULL}+{SHARED}"] * (passes == 2)
    return tuple((way,) * blocks for way in ways)
