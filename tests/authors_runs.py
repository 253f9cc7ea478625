"""Reference runs of the authors' own code for cache methods, and the same samples made here."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.cache.plan import Act, StepPlan
from disca_rt.conditioning import Conditioning
from disca_rt.pipeline.runtime import Runtime
from disca_rt.pipeline.saved_conditioning import load_conditioning
from disca_rt.sampling.loop import StepEvent
from disca_rt.schedule import Schedule, shifted

FOLDER = Path(__file__).parent / "golden" / "caches"


class Run(NamedTuple):
    """One run: its `facts` in `methods.json`, the latents at its end, and a trace of each step."""

    facts: dict[str, Any]
    latents: Tensor
    trace: Tensor

    @property
    def options(self) -> dict[str, Any]:
        return self.facts["options"]

    @property
    def schedule(self) -> Schedule:
        return shifted(self.facts["steps"], self.facts["shift"])


class Ours(NamedTuple):
    """The same sample made here, and the plans of its steps."""

    latents: Tensor
    plans: list[StepPlan]
    trace: Tensor

    @property
    def full_steps(self) -> list[int]:
        return [index for index, plan in enumerate(self.plans) if plan.label == "full"]

    def steps_that_compute(self, slot: int, which_pass: int = 0) -> list[int]:
        """The steps in which `slot` is computed."""
        acts = [plan.passes[which_pass][slot] for plan in self.plans]
        return [index for index, act in enumerate(acts) if act != Act.STAND_IN]


def names(method: str) -> list[str]:
    """The runs of a method."""
    return [run["name"] for run in _methods()["runs"] if run["method"] == method]


def load_run(name: str) -> Run:
    (facts,) = (run for run in _methods()["runs"] if run["name"] == name)
    tensors = load_file(FOLDER / facts["file"])
    return Run(facts, tensors[f"{name}.latents"], tensors[f"{name}.trace"])


@cache
def runtime() -> Runtime:
    """The model of all runs."""
    return Runtime.load(FOLDER / "dit.safetensors", dtype=torch.float32)


@cache
def inputs() -> tuple[Conditioning, Tensor]:
    """Conditioning and noise of all runs."""
    conditioning = load_conditioning(FOLDER / "io.safetensors").positive
    return conditioning, load_file(FOLDER / "io.safetensors")["latents"]


def sample(policy: str, schedule: Schedule) -> Ours:
    """The sample of all runs by a policy."""
    conditioning, noise = inputs()
    plans: list[StepPlan] = []
    trace: list[Tensor] = []

    def note(event: StepEvent) -> None:
        plans.append(event.plan)
        trace.append(event.latents.flatten()[::75].clone())

    latents = (
        runtime()
        .sample(conditioning, latents=noise, schedule=schedule, policy=policy, on_step=note)
        .latents
    )
    return Ours(latents, plans, torch.stack(trace))


@cache
def _methods() -> dict[str, Any]:
    return json.loads((FOLDER / "methods.json").read_text())
