"""Benchmarks of `disca-rt bench`: which contenders run against which, on one workload.

Knows no clock and no file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from ..attention.backends import BACKENDS
from ..cache.plan import StepPlan
from ..config import predictor_config
from ..graphs.runner import GraphRunner
from ..pipeline.sample import Sample
from ..schedule import Preset
from ..work.flops import StepFlops, image_tokens, step_flops
from .harness import Comparison, Contender
from .ran_plans import schedule_text
from .random_models import with_other
from .rivals import EAGER, Rivals
from .session import StageTimes
from .steps import Steps, Subject, shortened
from .workloads import Workload

LONG = 1e14  # FLOPs, above which a contender is warmed up and sampled a few times only
STEP_SAMPLES, SAMPLE_SAMPLES = (30, 5), (7, 2)  # and how many where a step is long
EAGER_OVER_OURS = 1.12  # our goal, on a GPU at 704x704x129 and larger
CAPTURED = "graphs"
PREDICTED_SHARE = {"embedded": 0.15, "704x704x129": 0.036}  # our goals


class Chosen(NamedTuple):
    """Names of our own contender's ops and attention, and the number of its ranks."""

    ops: str
    attention: str
    ranks: int = 1

    @property
    def is_eager(self) -> bool:
        return (self.ops, self.attention) == EAGER and self.ranks == 1


@dataclass(frozen=True)
class Suite:
    """Comparisons of one subject; with `graphs`, which makes a runner, ours is captured as well.

    For the last comparison, by contender: `times` collects the stages of its samples, `shortly`
    runs a short sample, `captured` are the graphs that it replays; `ran` are the plans of its
    samples, where these depend on what is measured.
    """

    workload: Workload
    subject: Subject
    chosen: Chosen
    graphs: Callable[[], GraphRunner] | None = None
    times: dict[str, list[StageTimes]] = field(default_factory=dict)
    shortly: dict[str, Callable[[], object]] = field(default_factory=dict)
    captured: dict[str, GraphRunner] = field(default_factory=dict)
    ran: dict[str, list[list[StepPlan]]] = field(default_factory=dict)

    @property
    def flops(self) -> StepFlops:
        """FLOPs of a step by kind, of all its passes and ranks together."""
        predictor = self.subject.runtime.predictor
        dit = self.subject.runtime.config
        config = predictor_config(dit) if predictor is None else predictor.config
        shape = self.subject.latent_shape
        passes = [step_flops(dit, config, shape, each.tokens) for each in self.subject.passes]
        return StepFlops(*map(sum, zip(*passes, strict=True)))

    def comparison(self, benchmark: str) -> Comparison:
        """Comparison by its name in BENCHMARKS; rivals are built when they first run."""
        for of_the_last in (self.times, self.shortly, self.captured, self.ran):
            of_the_last.clear()
        return {
            "full-step": self._full_step,
            "predicted-step": self._predicted_step,
            "sample": self._sample,
            "sample-graphs": self._sample_graphs,
            "rivals": self._rivals,
            "sample-rivals": self._sample_rivals,
        }[benchmark]()

    @property
    def ours(self) -> set[str]:
        """Names of the contenders that run the subject itself."""
        uncaptured = {self.sample_name, self.step_name}
        return uncaptured | {f"{name}, {CAPTURED}" for name in (*uncaptured, self.predicted_name)}

    @property
    def predicted_name(self) -> str:
        return f"predicted step, {self.subject.policy}"

    @property
    def step_name(self) -> str:
        if self.chosen.is_eager:
            return "eager reference"
        ops, attention, ranks = self.chosen
        return f"ours: {ops} ops, {attention} attention" + (f", {ranks} ranks" * (ranks > 1))

    def _full_step(self) -> Comparison:
        contenders = [self._ours()] if self.chosen.ranks > 1 else [self._eager()]
        if self.chosen.ranks == 1:
            contenders += [self._eager_backed(attention) for attention in self._flashes]
            contenders += [] if self.chosen.is_eager else [self._ours()]
        if self.graphs is not None:
            contenders.append(self._ours_captured())
        return self._comparison("full step", contenders, STEP_SAMPLES)

    def _rivals(self) -> Comparison:
        contenders = [self._eager()]
        contenders += [] if self.chosen.is_eager else [self._ours()]
        for name, (note, run) in Rivals(self.subject).steps().items():
            contenders.append(Contender(name, run, self.flops.full, note))
        return self._comparison("full step, rivals", contenders, STEP_SAMPLES)

    def _predicted_step(self) -> Comparison:
        steps = Steps(self.subject)
        goal = PREDICTED_SHARE.get(self.workload.name)
        contenders = [Contender("full step", steps.full, self.flops.full)]
        if steps.has_predicted:
            goal = goal if self.subject.runs_network else None
            flops = self.subject.flops_of([steps.predicted_plan])
            contenders.append(Contender(self.predicted_name, steps.predicted, flops, goal=goal))
            if self.graphs is not None:
                contenders.append(self._predicted_captured(flops, goal))
        return self._comparison("predicted step", contenders, STEP_SAMPLES)

    def _sample(self) -> Comparison:
        schedule = self.subject.schedule
        full = replace(
            self.subject, policy="full", schedule=Preset(schedule.schedule, None, schedule.shift)
        )
        contenders = [self._sampling(f"{schedule.steps} full steps", full)]
        if self.subject.policy != "full":
            contenders.append(self._sampling(self.sample_name, self.subject))
        return self._comparison("sample", contenders, SAMPLE_SAMPLES)

    def _sample_graphs(self) -> Comparison:
        contenders = [self._sampling(self.sample_name, self.subject), self._sampling_captured()]
        return self._comparison("sample, graphs", contenders, SAMPLE_SAMPLES)

    def _sample_rivals(self) -> Comparison:
        contenders = [self._sampling(self.sample_name, self.subject)]
        # What a cached step of theirs computes lies between ours without and with a predictor.
        flops = replace(self.subject, policy="reuse").flops
        for name, (note, run) in Rivals(self.subject).samples().items():
            contenders.append(Contender(name, run, flops, note))
        return self._comparison("sample, rivals", contenders, SAMPLE_SAMPLES)

    @property
    def sample_name(self) -> str:
        steps, policy = self.subject.schedule.steps, self.subject.policy
        if policy == "full":
            return f"{steps} full steps"
        if self.subject.plans is None:
            return f"{policy}: {steps} steps, full ones as measured"
        full = self.subject.full_steps
        return f"{policy}: {full} full, {steps - full} predicted"

    def _eager(self) -> Contender:
        note = "ours as well: reference ops, sdpa attention" if self.chosen.is_eager else ""
        run = Steps(self._under(*EAGER)).full
        return Contender("eager reference", run, self.flops.full, note)

    @property
    def _flashes(self) -> list[str]:
        """Names of PyTorch's FlashAttention and of the installed packages'."""
        dit = self.subject.runtime.dit
        packages = [row for row in BACKENDS.values() if row.install and row.is_measured]
        packages = [row for row in packages if row.missing() is None]
        device = "cuda" if self._is_gpu else "cpu"
        return ["flash", *(row.name for row in packages if row.takes(device, dit.dtype))]

    def _eager_backed(self, attention: str) -> Contender:
        install = BACKENDS[attention].install
        if install is not None:
            note = f"the package {install}"
        else:
            note = "FlashAttention 2, by PyTorch" if self._is_gpu else "a CPU's flash kernel"
        run = Steps(self._under("reference", attention)).full
        return Contender(f"eager reference, {attention} attention", run, self.flops.full, note)

    def _ours(self) -> Contender:
        is_goal = self._is_gpu and self.is_long and self.chosen.ranks == 1
        goal = 1 / EAGER_OVER_OURS if is_goal else None
        return Contender(self.step_name, Steps(self.subject).full, self.flops.full, goal=goal)

    def _ours_captured(self) -> Contender:
        name, graphs = self._captured(self.step_name)
        steps = Steps(self.subject, graphs)
        return Contender(name, steps.full, self.flops.full, warm_up=twice(steps.full))

    def _predicted_captured(self, flops: int, goal: float | None) -> Contender:
        name, graphs = self._captured(self.predicted_name)
        steps = Steps(self.subject, graphs)

        def warm_up() -> None:
            steps.full()
            twice(steps.predicted)()

        return Contender(name, steps.predicted, flops, goal=goal, warm_up=warm_up)

    def _captured(self, name: str) -> tuple[str, GraphRunner]:
        """Name of the captured twin of contender `name`, and the runner that captures it."""
        name = f"{name}, {CAPTURED}"
        self.captured[name] = self.graphs()
        return name, self.captured[name]

    def _under(self, ops: str, attention: str) -> Subject:
        if (ops, attention) == self.chosen[:2]:
            return self.subject
        return replace(self.subject, runtime=with_other(self.subject.runtime, ops, attention))

    def _sampling(self, name: str, subject: Subject) -> Contender:
        short = partial(subject.sample, shortened(subject.schedule))
        return self._timed_sampling(name, subject, subject.sample, short, warm_up=short)

    def _sampling_captured(self) -> Contender:
        """Contender with a graph of the trajectory; of each step where that is long, to warm up."""
        name, graphs = self._captured(self.sample_name)
        subject = self.subject.captured(graphs)
        if not self.is_long:
            whole = subject.sample
            return self._timed_sampling(name, subject, whole, whole, warm_up=twice(whole))
        run = partial(subject.sample, on_step=lambda event: None)
        short = partial(run, shortened(subject.schedule))
        return self._timed_sampling(name, subject, run, short, warm_up=twice(short))

    def _timed_sampling(
        self,
        name: str,
        subject: Subject,
        sample: Callable[[], Sample],
        short: Callable[[], Sample],
        warm_up: Callable[[], object],
    ) -> Contender:
        kept = self.times[name] = []
        self.shortly[name] = short
        measured = subject.plans is None
        plans = self.ran[name] = []

        def run() -> None:
            mine: list[StepPlan] = []
            seen = {"on_step": lambda event: mine.append(event.plan)} if measured else {}
            kept.append(sample(**seen).times)
            plans.append(mine)

        return Contender(name, run, subject.flops, warm_up=warm_up)

    @property
    def _is_gpu(self) -> bool:
        return self.subject.runtime.dit.device.type == "cuda"

    @property
    def is_long(self) -> bool:
        """True where a step takes seconds: then one run warms up, and few samples are enough."""
        return self.flops.full > LONG

    def _comparison(
        self, name: str, contenders: Sequence[Contender], samples: tuple[int, int]
    ) -> Comparison:
        subject, (usual, few) = self.subject, samples
        dit = subject.runtime.config
        width, height, frames = self.workload.size
        shape = {
            "model": self.workload.model,
            "video": f"{width}x{height}x{frames}",
            "batch": 1,
            "image tokens": image_tokens(dit, subject.latent_shape),
            "text tokens": subject.conditioning.tokens,
            "policy": subject.policy,
            "schedule": schedule_text(subject),
            **({} if subject.negative is None else {"passes": len(subject.passes)}),
            **{key: value for key, value in self.chosen._asdict().items() if key != "ranks"},
        }
        dtype = str(subject.runtime.dit.dtype).removeprefix("torch.")
        count = few if self.is_long else usual
        return Comparison(f"{name}, {self.workload.name}", shape, dtype, contenders, count)


def twice(run: Callable[[], object]) -> Callable[[], None]:
    """Function that runs `run` twice: the second run is the one that is captured."""

    def run_twice() -> None:
        run()
        run()

    return run_twice
