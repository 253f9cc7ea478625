"""Rivals of `disca-rt bench`: torch.compile, diffusers' classes, cache-dit.

A rival is made when it is first run, so that one which is not installed costs only its own line.
Knows no clock.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from torch import Tensor, nn

from ..cache.labels import FULL
from .diffusers_models import Unavailable, cache_blocks, diffusers_model, diffusers_step
from .random_models import with_other
from .steps import Steps, Subject

EAGER = "reference", "sdpa"
"""Ops and attention of the eager reference."""

Run = Callable[[], object]


class Rivals:
    """Rivals of `subject` on its inputs; diffusers' models share one set of random weights."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def steps(self) -> dict[str, tuple[str, Run]]:
        """Rivals in a full step, by name: a note, and the function that runs one."""
        return {
            "eager reference, torch.compile": ("each block compiled", lazily(self._compiled)),
            "diffusers": ("weights of its own", lazily(self._diffusers)),
            "diffusers, torch.compile": ("each block compiled", lazily(self._diffusers_compiled)),
        }

    def samples(self) -> dict[str, tuple[str, Run]]:
        """Rivals in a sample, by name: a note, and the function that runs one."""
        full = self._subject.full_steps
        note = "made to compute the same full steps; weights of its own"
        return {f"diffusers with cache-dit: {full} full": (note, lazily(self._cached))}

    def _compiled(self) -> Run:
        subject = replace(self._subject, runtime=with_other(self._subject.runtime, *EAGER))
        for block in subject.runtime.dit.blocks:
            block.compile()
        return Steps(subject).full

    def _diffusers(self) -> Run:
        return self._step(self._model())

    def _diffusers_compiled(self) -> Run:
        model = self._model()
        model.compile_repeated_blocks(fullgraph=True)  # as its authors recommend
        return self._step(model)

    def _step(self, model: nn.Module) -> Run:
        steps = Steps(self._subject)
        forwards = [diffusers_step(model, each) for each in self._subject.passes]
        scalars = steps.scalars()
        return lambda: steps.euler([forward(steps.latents, scalars) for forward in forwards])

    def _cached(self) -> Run:
        if self._subject.negative is not None:
            raise Unavailable("two passes a step are not told apart by the steps it is given")
        steps, plans = Steps(self._subject), self._subject.plans
        model = self._model()
        begin_sample = cache_blocks(model, [plan.label == FULL for plan in plans])
        forward = diffusers_step(model, self._subject.conditioning)
        scalars = [steps.scalars(index) for index in range(len(plans))]

        def run() -> None:
            begin_sample()
            for each in scalars:
                steps.euler([forward(steps.latents, each)])

        return run

    def _model(self) -> nn.Module:
        """New model of diffusers', to be compiled or cached."""
        dit = self._subject.runtime.dit
        return diffusers_model(dit.config, dtype=dit.dtype, weights=self._weights)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        dit = self._subject.runtime.dit
        return diffusers_model(dit.config, dit.device, dit.dtype).state_dict()


def lazily(make: Callable[[], Run]) -> Run:
    """Function that at its first call makes, and then always runs, what `make` returns."""
    made: list[Run] = []

    def run() -> object:
        if not made:
            made.append(make())
        return made[0]()

    return run
