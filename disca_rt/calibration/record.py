"""One recorded sample: a prompt's sample under a run's policy, as named tensors of numbers.

A quantity's numbers are `[steps, 2]`: numerator and denominator of its norm, NaN where there was
nothing to compare with. Sampled rows and latents are reduced to what fits need of them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..pipeline.fit import noise_of
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..sampling.loop import StepEvent
from ..schedule import Schedule
from .recording import Regressed
from .rows import channel_numbers, residual_numbers
from .runs import Run

Numbers = dict[str, Tensor]
"""Recorded numbers by name, fp64 on the CPU."""


def with_noise(pipeline: Pipeline, request: Request) -> Request:
    """`request`, whose prompts are encoded, with its initial noise drawn."""
    facts = pipeline.facts
    batch = request.conditioning.batch
    noise = noise_of(request, batch, facts.rules.noise, facts.config, facts.place)
    return replace(request, latents=noise, latent_shape=None)


def record(
    pipeline: Pipeline,
    request: Request,
    run: Run,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Numbers:
    """The numbers of one sample; `request` has its noise."""
    rule, path = run.policy.rule, [request.latents.double()]
    taken = {name: run.policy.slots[slot].stand_in for name, slot in run.samples.items()}
    for each in taken.values():
        each.taken.clear()

    def note(event: StepEvent) -> None:
        path.append(event.latents.double().cpu())
        if on_step is not None:
            on_step(event)

    request = replace(request, policy=run.policy)
    schedule, _ = pipeline.resolved(request)  # before it runs: whoever asks starts the rule anew
    pipeline.run(request, decode=False, on_step=note)
    numbers = {
        name: torch.tensor([seen[probe] for seen in rule.seen], dtype=torch.float64)
        for name, probe in run.quantities.items()
    }
    total = pipeline.denoiser.sharding.total
    for name, each in taken.items():
        if isinstance(each, Regressed):
            numbers[name] = total(each.taken[0])
        else:
            rows = total(torch.stack(each.taken)).cpu().double()
            numbers |= residual_numbers(rows[:, 0] - rows[:, 1])
            numbers |= channel_numbers(rows[:, 0])
            numbers |= path_numbers(path, schedule)
    for each in taken.values():
        each.taken.clear()
    return numbers


def path_numbers(path: list[Tensor], schedule: Schedule) -> Numbers:
    """The curvature of the latents' path `[steps]`, and the velocities' products `[steps, steps]`.

    Curvature of step s is |x_(s+1) − 2x_s + x_(s−1)| / |x_(s+1) − x_s|²; NaN at the first step.
    """
    x = torch.stack([each.flatten() for each in path])
    moves = x[1:] - x[:-1]
    lengths = torch.tensor([s.sigma_next - s.sigma for s in schedule], dtype=torch.float64)
    velocities = moves / lengths[:, None]
    bends = torch.full((len(moves),), float("nan"), dtype=torch.float64)
    bends[1:] = (moves[1:] - moves[:-1]).norm(dim=1) / moves[1:].norm(dim=1).square()
    return {"path/curvature": bends, "path/products": velocities @ velocities.T}
