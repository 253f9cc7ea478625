"""Trials: what replacing one part of one step does to that step's output, along an uncached sample.

Each step is computed in full, and again under each trial's plan: before what it keeps is renewed,
so that stand-ins have the step before; or after it, so that they have this step's. A trial changes
nothing: the sample goes on from the full step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache.placements.guidance import prefix_stops
from ..cache.plan import Act, Setting, StepPlan
from ..cache.policy import Policy, Slot
from ..cache.rules.always import Always
from ..cache.site import DOUBLE, SINGLE, Site
from ..cache.stand_ins.reuse import Reuse
from ..config import DiTConfig
from ..pipeline.fit import guidance_of
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..sampling.loop import Loop
from .noisy import Noisy


class Trial(NamedTuple):
    """One trial: the slots that stand in for something, in all passes that have them."""

    name: str
    stands_in: tuple[int, ...]


class Trials(NamedTuple):
    """Slots, the trials of them, and whether these come `after` the full step."""

    name: str
    slots: tuple[Slot, ...]
    trials: tuple[Trial, ...]
    after: bool = False

    @property
    def policy(self) -> Policy:
        """The policy whose buffers the trials use."""
        return Policy(f"calibrate {self.name}", Always(), self.slots)


def branch_trials(config: DiTConfig) -> Trials:
    """Reuse of all attention outputs, of all MLPs, of both, from the step before (FEB-Cache)."""
    last = config.double + config.single
    branches = (*DOUBLE, *SINGLE)
    ways = ("attention", "attn"), ("mlp", "mlp")
    slots = [
        Slot(Site("branch", 0, last, tuple(each for each in branches if end in each)), Reuse())
        for _, end in ways
    ]
    trials = Trial("attention", (0,)), Trial("mlp", (1,)), Trial("both", (0, 1))
    return Trials("branches", tuple(slots), trials)


def impact_trials(config: DiTConfig, passes: int) -> Trials:
    """Noise of the size of a cache's error, at each level that MixCache reuses."""
    sites = [("step", Site("velocity"))]
    sites += [("cfg", Site("guidance"))] * (passes == 2)
    stops = prefix_stops(None, config)
    sites += [(f"block {stop - 1}", Site("blocks", 0, stop)) for stop in stops]
    slots = tuple(Slot(site, Noisy(site.level == "guidance")) for _, site in sites)
    trials = tuple(Trial(name, (i,)) for i, (name, _) in enumerate(sites))
    return Trials("impacts", slots, trials, after=True)


def run_trials(
    pipeline: Pipeline,
    request: Request,
    trials: Trials,
    on_step: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """D1 of the output of each step under each trial, "NAME/TRIAL" `[steps]`.

    NaN where the stand-ins have nothing yet. `request` has its noise.
    """
    denoiser = pipeline.denoiser
    schedule, _ = pipeline.resolved(request)
    with torch.no_grad():
        latents = denoiser.sharding.from_first_rank(request.latents.to(denoiser.dit.device))
        prepared = [denoiser.dit.prepare(each, latents.shape) for each in request.conditionings]
        guidance = guidance_of(request, pipeline.config)
        loop = denoiser.loop(latents.shape, prepared, schedule, trials.policy, guidance)
        errors = []
        for step in schedule:
            latents, of_step = _step(loop, step.index, latents, trials, prepared)
            errors.append(of_step)
            if on_step is not None:
                on_step(step.index)
    by_trial = torch.tensor(errors, dtype=torch.float64).T
    names = [f"{trials.name}/{each.name}" for each in trials.trials]
    return dict(zip(names, by_trial, strict=True))


def _step(
    loop: Loop, index: int, latents: Tensor, trials: Trials, prepared: Sequence
) -> tuple[Tensor, list[float]]:
    """The latents after a step, and the error of each trial of it."""
    kept_at = (index,) if trials.after else (index - 1,) * bool(index)
    tensors = loop.tensors(index, latents, kept_at)
    plans = [_plan(loop.setting, each) for each in trials.trials]

    def tried() -> list[Tensor]:
        return [loop.sampler.run(plan, {}, tensors, prepared).latents for plan in plans]

    before = tried() if index and not trials.after else []
    full = loop.sampler.run(loop.setting.full, {}, tensors, prepared).latents
    outcomes = tried() if index and trials.after else before
    size = (full - latents).double().abs().sum()
    errors = [((each - full).double().abs().sum() / size).item() for each in outcomes]
    return full, errors or [float("nan")] * len(plans)


def _plan(setting: Setting, trial: Trial) -> StepPlan:
    acts = [Act.STAND_IN if i in trial.stands_in else Act.RUN for i in range(setting.slots)]
    return StepPlan((tuple(acts),) * setting.passes, trial.name)
