"""The benchmarks of `disca-rt bench`: which contenders run against which, on one workload.

Knows no clock and no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from ..cache.build import build_policy
from ..config import PredictorConfig, predictor_config
from ..flops import StepFlops, image_tokens, sample_flops, step_flops
from ..schedule import full_schedule
from .harness import Comparison, Contender
from .random_models import with_other
from .rivals import EAGER, Rivals
from .session import StageTimes
from .steps import Steps, Subject, shortened
from .workloads import Workload

LONG = 1e14  # FLOPs, above which a contender is warmed up and sampled a few times only
STEP_SAMPLES, LONG_STEP_SAMPLES = 30, 5
SAMPLE_SAMPLES, LONG_SAMPLE_SAMPLES = 7, 2
EAGER_OVER_OURS = 1.12  # P6 of the project's goals, on a GPU at 704x704x129 and above
PREDICTED_SHARE = {"embedded": 0.15, "704x704x129": 0.036}  # P7, and the embedded model's own


class Chosen(NamedTuple):
    """How our own contender runs: `ops` and `attention` by name, over `ranks`."""

    ops: str
    attention: str
    ranks: int = 1

    @property
    def is_eager(self) -> bool:
        return (self.ops, self.attention) == EAGER and self.ranks == 1


@dataclass(frozen=True)
class Suite:
    """`times` collects where the time of the samples went that were measured, by contender."""

    workload: Workload
    subject: Subject
    chosen: Chosen
    times: dict[str, list[StageTimes]] = field(default_factory=dict)

    @property
    def flops(self) -> StepFlops:
        """Of all ranks together."""
        predictor = self.subject.runtime.predictor
        config = predictor.config if predictor is not None else self._fitting
        dit = self.subject.runtime.config
        return step_flops(dit, config, self.subject.latents, self.subject.conditioning.tokens)

    @property
    def _fitting(self) -> PredictorConfig:
        return predictor_config(self.subject.runtime.config)

    def comparison(self, benchmark: str) -> Comparison:
        """The one of BENCHMARKS, its contenders ready but for rivals, which are built when run."""
        return {
            "full-step": self._full_step,
            "predicted-step": self._predicted_step,
            "sample": self._sample,
            "rivals": self._rivals,
            "sample-rivals": self._sample_rivals,
        }[benchmark]()

    @property
    def ours(self) -> set[str]:
        """The contenders that run the subject itself."""
        return {self.sample_name, "eager reference" if self.chosen.is_eager else self.step_name}

    @property
    def step_name(self) -> str:
        ops, attention, ranks = self.chosen
        return f"ours: {ops} ops, {attention} attention" + (f", {ranks} ranks" * (ranks > 1))

    def _full_step(self) -> Comparison:
        contenders = [self._ours()] if self.chosen.ranks > 1 else [self._eager()]
        if self.chosen.ranks == 1:
            contenders.append(self._flash())
            contenders += [] if self.chosen.is_eager else [self._ours()]
        return self._step_comparison("full step", contenders)

    def _rivals(self) -> Comparison:
        contenders = [self._eager()]
        contenders += [] if self.chosen.is_eager else [self._ours()]
        for name, (note, run) in Rivals(self.subject).steps().items():
            contenders.append(Contender(name, run, self.flops.full, note))
        return self._step_comparison("full step, rivals", contenders)

    def _predicted_step(self) -> Comparison:
        steps = Steps(self.subject)
        goal = PREDICTED_SHARE.get(self.workload.name)
        contenders = [Contender("full step", steps.full, self.flops.full)]
        if steps.has_predicted:
            policy = self.subject.policy.name
            contenders.append(
                Contender(
                    f"predicted step, {policy}",
                    steps.predicted,
                    self._cheap_flops(),
                    goal=goal if policy == "disca" else None,
                )
            )
        return self._step_comparison("predicted step", contenders)

    def _sample(self) -> Comparison:
        schedule, policy = self.subject.schedule, self.subject.policy
        every = full_schedule(schedule.steps, schedule.shift)
        runtime = self.subject.runtime
        full = replace(
            self.subject, policy=build_policy("full", None, runtime.dit.ops), schedule=every
        )
        contenders = [self._sampling(f"{every.steps} full steps", full)]
        if policy.name != "full":
            contenders.append(self._sampling(self.sample_name, self.subject))
        return self._sample_comparison("sample", contenders)

    def _sample_rivals(self) -> Comparison:
        contenders = [self._sampling(self.sample_name, self.subject)]
        # What a cached step of theirs computes lies between ours without and with a predictor.
        flops = sample_flops(self.flops, self.subject.schedule, policy="reuse")
        for name, (note, run) in Rivals(self.subject).samples().items():
            contenders.append(Contender(name, run, flops, note))
        return self._sample_comparison("sample, rivals", contenders)

    @property
    def sample_name(self) -> str:
        schedule, policy = self.subject.schedule, self.subject.policy
        if policy.name == "full":
            return f"{schedule.steps} full steps"
        predicted = schedule.steps - schedule.full_steps
        return f"{policy.name}: {schedule.full_steps} full, {predicted} predicted"

    def _eager(self) -> Contender:
        note = "ours as well: reference ops, sdpa attention" if self.chosen.is_eager else ""
        run = Steps(self._under(*EAGER)).full
        return Contender("eager reference", run, self.flops.full, note)

    def _flash(self) -> Contender:
        note = "FlashAttention 2, by PyTorch" if self._is_gpu else "a CPU's flash kernel"
        run = Steps(self._under("reference", "flash")).full
        return Contender("eager reference, flash attention", run, self.flops.full, note)

    def _ours(self) -> Contender:
        is_goal = self._is_gpu and self.is_long and self.chosen.ranks == 1
        goal = 1 / EAGER_OVER_OURS if is_goal else None
        return Contender(self.step_name, Steps(self.subject).full, self.flops.full, goal=goal)

    def _under(self, ops: str, attention: str) -> Subject:
        if (ops, attention) == self.chosen[:2]:
            return self.subject
        return replace(self.subject, runtime=with_other(self.subject.runtime, ops, attention))

    def _sampling(self, name: str, subject: Subject) -> Contender:
        kept = self.times[name] = []

        def run() -> None:
            kept.append(subject.sample().times)

        warm_up = partial(subject.sample, shortened(subject.schedule))
        return Contender(name, run, self._policy_flops(subject), warm_up=warm_up)

    def _policy_flops(self, subject: Subject) -> int:
        return sample_flops(self.flops, subject.schedule, policy=subject.policy.name)

    def _cheap_flops(self) -> int:
        cheap = {"disca": self.flops.predicted, "full": self.flops.full}
        return cheap.get(self.subject.policy.name, self.flops.ends)

    @property
    def _is_gpu(self) -> bool:
        return self.subject.runtime.dit.device.type == "cuda"

    @property
    def is_long(self) -> bool:
        """Whether a step takes seconds: then one warms up, and few are samples enough."""
        return self.flops.full > LONG

    def _step_comparison(self, name: str, contenders: Sequence[Contender]) -> Comparison:
        samples = LONG_STEP_SAMPLES if self.is_long else STEP_SAMPLES
        return self._comparison(name, contenders, samples)

    def _sample_comparison(self, name: str, contenders: Sequence[Contender]) -> Comparison:
        samples = LONG_SAMPLE_SAMPLES if self.is_long else SAMPLE_SAMPLES
        return self._comparison(name, contenders, samples)

    def _comparison(self, name: str, contenders: Sequence[Contender], samples: int) -> Comparison:
        subject = self.subject
        dit = subject.runtime.config
        width, height, frames = self.workload.size
        shape = {
            "model": self.workload.model,
            "video": f"{width}x{height}x{frames}",
            "batch": 1,
            "image tokens": image_tokens(dit, subject.latents),
            "text tokens": subject.conditioning.tokens,
            "policy": subject.policy.name,
            "schedule": f"{subject.schedule.full_steps} full of {subject.schedule.steps}",
            **{key: value for key, value in self.chosen._asdict().items() if key != "ranks"},
        }
        dtype = str(subject.runtime.dit.dtype).removeprefix("torch.")
        return Comparison(f"{name}, {self.workload.name}", shape, dtype, contenders, samples)
