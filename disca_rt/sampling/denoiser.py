"""The denoising stage: from noise and conditionings to clean latents, by a policy and a schedule.

It owns the buffers that cache policies write into; two of them in one process share nothing. Knows
no prompts, files or pixels.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..cache.policy import CachePolicy
from ..conditioning import Conditioning
from ..graphs.runner import GraphRunner
from ..instruments.stopwatch import Stopwatch
from ..models.dit import DiT
from ..models.prepared import Prepared
from ..schedule import Schedule
from .engine import Guidance, Pass, StepEvent, denoise

MAX_STATES = 4


class Denoiser:
    """Samples with `dit`; keeps the cache states of the last `max_states` shapes, with `graphs`.

    A state belongs to one policy, batch, size and text length, and so do the captures that write
    into it. Without `graphs` only the last one stays.
    """

    def __init__(
        self, dit: DiT, graphs: GraphRunner | None = None, max_states: int = MAX_STATES
    ) -> None:
        if max_states < 1:
            raise ValueError(f"max_states must be at least 1, got {max_states}")
        self.dit, self.graphs, self.max_states = dit, graphs, max_states
        self._states: OrderedDict[tuple[CachePolicy, tuple[torch.Size, ...]], list[Any]]
        self._states = OrderedDict()  # of all passes of a sample

    def denoise(
        self,
        latents: Tensor,
        conditions: Sequence[Conditioning],
        *,
        schedule: Schedule,
        policy: CachePolicy,
        guidance: Guidance,
        stopwatch: Stopwatch,
        on_step: Callable[[StepEvent], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Tensor:
        """Clean latents from noise `latents [B, C, T, H, W]` fp32, of the same shape.

        `conditions`: one conditioning or, with `guidance.classifier_free`, the conditional and then
        the unconditional one. `on_step` is called after each step; `cancel`, once set, ends the
        sample with `Cancelled` before the next one.
        """
        with stopwatch.stage("conditioning"):
            passes = self._passes(conditions, policy, latents)
        return denoise(
            self.dit,
            policy,
            schedule,
            latents,
            passes,
            guidance,
            stopwatch,
            on_step,
            cancel,
            self.graphs if policy.schedule_known else None,
        )

    def close(self) -> None:
        """Give up all states, and the captures that write into them."""
        while self._states:
            self._give_up(*self._states.popitem()[1])

    def _passes(
        self, conditions: Sequence[Conditioning], policy: CachePolicy, latents: Tensor
    ) -> list[Pass]:
        prepared = [self.dit.prepare(each, latents.shape) for each in conditions]
        tokens = tuple(self._tokens(each, len(latents)) for each in prepared)
        states = self._states_of(policy, tokens)
        return [Pass(*each) for each in zip(prepared, states, strict=True)]

    def _tokens(self, prepared: Prepared, batch: int) -> torch.Size:
        """`[B, S, C]` of this rank's tokens in the blocks."""
        img_tokens = len(prepared.freqs_cos)
        share = self.dit.sharding.share(img_tokens, prepared.tokens - img_tokens)
        return torch.Size([batch, share, self.dit.config.hidden])

    def _states_of(self, policy: CachePolicy, tokens: tuple[torch.Size, ...]) -> list[Any]:
        """One for each pass of such tokens: those of an earlier sample, if they are still here."""
        key, most = (policy, tokens), 1 if self.graphs is None else self.max_states
        if key not in self._states:
            while len(self._states) >= most:  # they go before new buffers come
                self._give_up(*self._states.popitem(last=False)[1])
            with torch.inference_mode(False):  # what is made within it is not written outside
                self._states[key] = [
                    policy.allocate(each, self.dit.dtype, self.dit.device) for each in tokens
                ]
        self._states.move_to_end(key)
        return self._states[key]

    def _give_up(self, *states: Any) -> None:
        """With the captures that write into them."""
        if self.graphs is not None:
            for state in states:
                self.graphs.drop(state)


def current_device(device: torch.device) -> AbstractContextManager:
    """Makes `device` the current one: events and kernel launches go there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
