"""A model of any size as a subject: its own uncached samples of prompts or saved conditionings.

Prompts are encoded before, once. The models of the denoising stay in memory from sample to sample,
and so does the VAE, which decodes each sample as it ends: nothing is loaded again for a clip, and
an interruption loses one. Nothing is captured, so that times are of steps that run eagerly.
"""

import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..atomic import whole
from ..cache.kept import StateBytes, kept_bytes
from ..cache.plan import Setting, StepPlan
from ..cache.policy import Policy
from ..pipeline.fit import latent_shape
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..sampling.loop import Cancelled, StepEvent
from ..schedule import Preset, Schedule
from ..work.flops import sample_flops
from .similarity import eight_bits
from .subject import UNCACHED, Clip

Guard = Callable[[Request], AbstractContextManager[None]]
"""Surrounds a sample: refuses one that cannot fit, and explains one that did not."""

OnStep = Callable[[StepEvent], None]
TRIED = 2  # steps, to see how long one takes: the first loads and compiles kernels


class Whole:
    """Samples `requests`, encoded and of one prompt each, with other policies than their own.

    Used while `pipeline.keeping_models()` lasts. `facts` are those of the weights and flags; traces
    of uncached samples are kept in the folder `traces`. Samples have frames where it `decodes`, and
    the pipeline has a VAE.
    """

    name = "model"

    def __init__(
        self,
        pipeline: Pipeline,
        requests: Sequence[Request],
        facts: dict[str, object],
        traces: Path,
        decodes: bool = True,
        guard: Guard = lambda request: nullcontext(),
        decode_guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._pipeline, self._requests, self._guard = pipeline, requests, guard
        self._decode_guard = decode_guard
        self._traces, self.decodes = traces, decodes and pipeline.decodes
        first = requests[0]
        self.prompts = [f"sample {number}" for number in range(len(requests))]
        self.steps, passes = first.schedule.steps, len(first.conditionings)
        frames, height, width = pipeline.size_of(latent_shape(first))
        said = f"{width}x{height}x{frames}, {self.steps} steps{' x 2' * (passes == 2)}"
        self.title = f"{pipeline.config.traits.title}, {said}"
        self.facts = facts | {
            "subject": self.name,
            "prompts": len(requests),
            "latents": list(latent_shape(first)),
            "sigmas": list(_schedule(first).sigmas),
            "guidance": [first.guidance_scale, first.classifier_free_scale, passes],
            "decoded": self.decodes,
        }
        self._seconds: dict[str, list[float]] = {}

    @property
    def preset(self) -> Preset:
        """The noise levels, without a step list."""
        given = self._requests[0].schedule
        return given._replace(step_list=None) if isinstance(given, Preset) else Preset(given)

    @property
    def reference_bytes(self) -> int:
        """The bytes of what is kept of all uncached samples to compare with."""
        return sum(map(self._reference_bytes, self._requests))

    def check(self, policy: str) -> None:
        request = self._with(policy, 0)
        resolved = self._policy(policy, 0)
        self._pipeline.denoiser.check(resolved, len(request.conditionings))
        resolved.known_plans(self._setting(len(resolved.slots)))
        with self._guard(request):  # MemoryError where it cannot fit
            pass

    def clips(self, policy: str, first: int) -> Iterator[Clip]:
        for number in range(first, len(self._requests)):
            ran = self._sampled(policy, number)
            yield Clip(ran.latents, self._frames(ran), ran.plans, {})

    def flops(self, policy: str, plans: Sequence[StepPlan], number: int) -> int:
        request = self._requests[number]
        text = [each.tokens for each in request.conditionings]
        return sample_flops(
            self._policy(policy, number), plans, self._pipeline.config, latent_shape(request), text
        )

    def step_flops(self, number: int) -> int:
        return self.flops(UNCACHED, self.known_plans(UNCACHED)[:1], number)

    def known_plans(self, policy: str) -> tuple[StepPlan, ...] | None:
        resolved = self._policy(policy, 0)
        return resolved.known_plans(self._setting(len(resolved.slots)))

    def drifts(self, policy: str, first: int, count: int) -> Iterator[tuple[int, list[float]]]:
        for number in range(first, first + count):
            yield number, self._distances(policy, number)

    def state(self, policy: str) -> StateBytes:
        request = self._requests[0]
        shape = 1, *latent_shape(request)
        dit = self._pipeline.dit
        prepared = [dit.prepare(each, shape) for each in request.conditionings]
        return kept_bytes(self._policy(policy, 0), self._pipeline.denoiser.shape(shape, prepared))

    def seconds(self, policies: Sequence[str]) -> list[float]:
        """The median time of the samples that were judged, from noise to latents.

        A policy of which this process has sampled nothing is sampled once more.
        """
        for policy in policies:
            if policy not in self._seconds:
                self._sampled(policy, 0)
        return [statistics.median(self._seconds[policy]) for policy in policies]

    def step_seconds(self) -> float:
        """The seconds of a full step: of the second one in a sample that is then given up."""
        stop, marks = threading.Event(), [time.perf_counter()]

        def mark(event: StepEvent) -> None:
            event.latents.cpu()  # waits for the device
            marks.append(time.perf_counter())
            if len(marks) > TRIED:
                stop.set()

        with self._guard(self._requests[0]), suppress(Cancelled):
            request = self._with(UNCACHED, 0)
            self._pipeline.run(request, decode=False, on_step=mark, cancel=stop)
        return marks[-1] - marks[-2]

    def _sampled(self, policy: str, number: int, look: OnStep = lambda event: None) -> "_Ran":
        """One sample; latents that are not finite are infinitely far, unless nothing is cached."""
        plans, request, latents = [], self._with(policy, number), None
        started = time.perf_counter()

        def on_step(event: StepEvent) -> None:
            plans.append(event.plan)
            look(event)

        try:
            with self._guard(request):
                sample = self._pipeline.run(request, decode=False, on_step=on_step)
            latents = sample.latents[0].cpu()
        except FloatingPointError:
            if policy == UNCACHED:
                raise
        self._seconds.setdefault(policy, []).append(time.perf_counter() - started)
        if latents is None:
            nowhere = torch.full(latent_shape(request), torch.nan)
            return _Ran(nowhere, tuple(plans), is_finite=False)
        return _Ran(latents, tuple(plans), is_finite=True)

    def _frames(self, ran: "_Ran") -> Tensor | None:
        """The frames `[3, T, H, W]` uint8 of a sample, as chunks come; black ones of no finite."""
        pipeline, chunks = self._pipeline, []
        if not self.decodes:
            return None
        if not ran.is_finite:
            return torch.zeros(3, *pipeline.size_of(ran.latents.shape), dtype=torch.uint8)
        latents = ran.latents[None].to(pipeline.facts.place.device)
        with self._decode_guard():
            pipeline.decode_into(latents, [lambda chunk: chunks.append(eight_bits(chunk).cpu())])
        return torch.cat(chunks, 1)

    def _distances(self, policy: str, number: int) -> list[float]:
        """Distances to the uncached sample before the first step and after each."""
        uncached, distances = self._trace(number), [0.0]
        size = uncached[-1].norm()

        def look(event: StepEvent) -> None:
            distance = (_on_host(event.latents) - uncached[event.step.index]).norm() / size
            distances.append(distance.item() if distance.isfinite() else math.inf)

        self._sampled(policy, number, look)
        return distances

    def _trace(self, number: int) -> Tensor:
        """The latents `[steps, C, T, h, w]` of an uncached sample, before its steps and after.

        Kept on disk: at 1280x720x129 those of 50 steps have 1.5 GB.
        """
        path = self._traces / f"{self._key}-{number}.safetensors"
        if not path.is_file():
            seen: list[Tensor] = []
            self._sampled(UNCACHED, number, lambda event: seen.append(_on_host(event.latents)))
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as partial:
                save_file({"latents": torch.stack(seen)}, partial)
        return load_file(path)["latents"]

    @property
    def _key(self) -> str:
        """A name for all that uncached samples depend on."""
        return sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:12]

    def _with(self, policy: str, number: int) -> Request:
        return replace(self._requests[number], policy=policy)

    def _policy(self, policy: str, number: int) -> Policy:
        return self._pipeline.resolved(self._with(policy, number))[1]

    def _setting(self, slots: int) -> Setting:
        first = self._requests[0]
        steps = tuple(_schedule(first))
        return Setting(steps, len(first.conditionings), slots)

    def _reference_bytes(self, request: Request) -> int:
        shape = latent_shape(request)
        frames = math.prod(self._pipeline.size_of(shape)) if self.decodes else 0
        return 4 * math.prod(shape) + 3 * frames


class _Ran(NamedTuple):
    """One sample: its latents `[C, T, h, w]` fp32, and the plans of its steps."""

    latents: Tensor
    plans: tuple[StepPlan, ...]
    is_finite: bool


def _schedule(request: Request) -> Schedule:
    given = request.schedule
    return given.schedule if isinstance(given, Preset) else given


def _on_host(latents: Tensor) -> Tensor:
    """A copy of the only sample of live latents."""
    return latents[0].detach().to("cpu", torch.float32, copy=True)
