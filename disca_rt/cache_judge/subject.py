"""The protocol of subjects: a model, a schedule and prompts on which cache methods are judged."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from ..cache.kept import StateBytes
from ..cache.plan import StepPlan

UNCACHED = "full"
"""The policy that all others are compared with."""


class Clip(NamedTuple):
    """One prompt's sample: latents `[C, T, h, w]`, frames `[3, T, H, W]` uint8, and its steps.

    `frames` are None where nothing decodes latents. `scores` are marks that need no reference, in
    [0, 1]; empty where nobody gives any.
    """

    latents: Tensor
    frames: Tensor | None
    plans: tuple[StepPlan, ...]
    scores: dict[str, float]


class Subject(Protocol):
    """A way of sampling without a cache, the same noise for every policy.

    `name` is short, such as "base", `title` says it in words. `facts` are all that a result depends
    on besides the policy; lines of others are not gone on with. There are `steps` of them.
    """

    name: str
    title: str
    prompts: Sequence[str]
    steps: int
    facts: dict[str, object]

    def check(self, policy: str) -> None:
        """Raises ValueError where this model or schedule cannot run `policy`."""

    def clips(self, policy: str, first: int) -> Iterator[Clip]:
        """The samples of the prompts from number `first` on, in order."""

    def known_plans(self, policy: str) -> tuple[StepPlan, ...] | None:
        """The plans of a policy's steps, or None where they depend on what will be measured."""

    def drifts(self, policy: str, first: int, count: int) -> Iterator[tuple[int, list[float]]]:
        """Distances to the uncached run before each step and at the end, of `count` prompts.

        In norms of the uncached run's last latents: an early error of a step goes on to the end.
        """

    def flops(self, policy: str, plans: Sequence[StepPlan], number: int) -> int:
        """FLOPs of the sample of prompt `number` whose steps ran by `plans`."""

    def step_flops(self, number: int) -> int:
        """FLOPs of one full step of prompt `number`, all its passes."""

    def state(self, policy: str) -> StateBytes:
        """The bytes that a policy keeps for one sample."""

    def seconds(self, policies: Sequence[str]) -> list[float]:
        """Seconds of one sample by each policy, taking turns: medians of several rounds."""
