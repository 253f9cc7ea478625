"""A recording session: every prompt under every run and every trial, from where it was left."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ..cache.kept import SampleShape, kept_bytes
from ..pipeline.pipeline import Pipeline
from ..pipeline.request import Request
from ..sampling.denoiser import current_device
from .attention_plan import NAME as ATTENTION
from .attention_plan import attention_policy, run_attention
from .record import Numbers, record, with_noise
from .records import Records
from .runs import Run, plan_runs
from .store import Store, key_of
from .trials import Trials, branch_trials, impact_trials, run_trials

OnStep = Callable[[], None]


class Piece(NamedTuple):
    """One sample to be recorded: `run` gives its numbers, and calls back after each step."""

    prompt: int
    name: str
    content: str
    request: Request
    run: Callable[[OnStep], Numbers]


class Session:
    """A recording of `requests`, whose prompts are encoded, into `store`.

    `budget` bytes are there for what it keeps on the device; `has_maps`: FastCache's normal
    equations are recorded too. With an `attention` threshold so is DiTFastAttn's plan. `left_out`
    says which trials do not fit. The models stay in memory while it is used
    (`Pipeline.keeping_models`).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        requests: Sequence[Request],
        store: Store,
        budget: int,
        has_maps: bool = False,
        attention: float | None = None,
    ) -> None:
        self.pipeline, self.store = pipeline, store
        self.requests = [with_noise(pipeline, each) for each in requests]
        first = self.requests[0]
        self.subject = pipeline.subject(first)
        self._check()
        self.shape = shape = largest_shape(pipeline, first)
        self.runs = plan_runs(shape, budget, has_maps)
        trials = branch_trials(shape.config), impact_trials(shape.config, len(shape.rows))
        self.trials = [each for each in trials if kept_bytes(each.policy, shape).device <= budget]
        self.left_out = [each.name for each in trials if each not in self.trials]
        self.attention = attention
        if attention is not None:
            policy = attention_policy(shape.config, len(shape.rows))
            if kept_bytes(policy, shape).device > budget:
                self.attention = None
                self.left_out.append(ATTENTION)

    @property
    def samples(self) -> int:
        """The number of samples that are recorded."""
        of_one = len(self.runs) + len(self.trials) + (self.attention is not None)
        return len(self.requests) * of_one

    def record(
        self,
        on_sample: Callable[[int], None] = lambda done: None,
        on_step: OnStep = lambda: None,
        writes: bool = True,
    ) -> Records:
        """The numbers of every prompt; those that the store has are read, the others written.

        `on_sample` gets the number of samples done. Without `writes` nothing is written: of
        several ranks one does.
        """
        found: list[Numbers] = [{} for _ in self.requests]
        for done, piece in enumerate(self._pieces()):
            on_sample(done)
            key = key_of(self.subject, piece.request, piece.content)
            path = self.store.path(piece.prompt, piece.name)
            numbers = self.store.read(path, key)
            if numbers is None:
                numbers = piece.run(on_step)
                if writes:
                    self.store.write(path, key, numbers)
            found[piece.prompt] |= numbers
        on_sample(self.samples)
        return Records(found)

    def _pieces(self) -> Iterator[Piece]:
        for prompt, request in enumerate(self.requests):
            for number, run in enumerate(self.runs):
                recorded = partial(self._recorded, request, run)
                yield Piece(prompt, f"run-{number}", run.content, request, recorded)
            for trials in self.trials:
                tried = partial(self._tried, request, trials)
                yield Piece(prompt, trials.name, trials.name, request, tried)
            if self.attention is not None:
                content = f"{ATTENTION} {self.attention}"
                yield Piece(prompt, ATTENTION, content, request, partial(self._planned, request))

    def _recorded(self, request: Request, run: Run, on_step: OnStep) -> Numbers:
        return record(self.pipeline, request, run, lambda event: on_step())

    def _tried(self, request: Request, trials: Trials, on_step: OnStep) -> Numbers:
        with current_device(self.pipeline.facts.place.device):
            return run_trials(self.pipeline, request, trials, lambda index: on_step())

    def _planned(self, request: Request, on_step: OnStep) -> Numbers:
        with current_device(self.pipeline.facts.place.device):
            return run_attention(self.pipeline, request, self.attention, lambda index: on_step())

    def _check(self) -> None:
        """Raises ValueError where requests are of several samples, or a batch of them."""
        for request in self.requests:
            if request.conditioning.batch != 1:
                raise ValueError(
                    f"a calibration takes one prompt a sample, got {request.conditioning.batch}"
                )
            if differences := self.subject.differences(self.pipeline.subject(request)):
                raise ValueError(f"prompts of a calibration differ: {'; '.join(differences)}")


def largest_shape(pipeline: Pipeline, request: Request) -> SampleShape:
    """The shape of a request's sample on the rank with most tokens: all ranks plan by it."""
    denoiser, latents = pipeline.denoiser, request.latents.shape
    prepared = [denoiser.dit.prepare(each, latents) for each in request.conditionings]
    shape = denoiser.shape(latents, prepared)
    shares = [-(-each.tokens // denoiser.sharding.size) for each in prepared]
    rows = tuple((min(each, shape.img_tokens), max(0, each - shape.img_tokens)) for each in shares)
    return shape._replace(rows=rows)
