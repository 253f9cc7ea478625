"""DiCache's rule: full once the changes after the first blocks have added up to a threshold."""

from dataclasses import dataclass, field
from typing import NamedTuple

from ...config import DiTConfig
from ...schedule import Step
from ..options import check_int, check_number
from ..plan import Answer, Ask, Probe, Seen, Setting, StepPlan
from ..rule import RuleDefaults


class Probed(NamedTuple):
    """Facts of one pass: its changes added up, and Σ|z' − z''| of the last two full steps.

    The latter is None until there were two.
    """

    total: float = 0.0
    spread: float | None = None


class Probes(NamedTuple):
    """The probes of one pass: p against the step before, z against the last full step's and the
    one's before that."""

    change: Probe
    kept: Probe
    before: Probe


@dataclass(frozen=True)
class DiCache(RuleDefaults):
    """Adds up mean|p − p'| / mean|p'|; reused while the sum is at most `rel_l1_thresh`.

    p are the image tokens after the first `probe_depth` blocks and p' those of the step before
    (DiCache, arXiv 2508.17356, by the authors' code). The first int(`ret_ratio`·n) steps are full,
    and the first one in any case. The last step is not forced. Stand-ins are given
    γ = mean|z − z''| / mean|z' − z''| within [1, 1.5], z = p − h0, z' and z'' of the last two full
    steps; 1 until there were two.

    The probe's blocks run in every step. A `probe_depth` that reaches into the single blocks is
    meant as well, which the authors' code cannot do; beyond half of the double blocks theirs
    compares with a stale p'. With classifier-free guidance the conditional pass decides, and gives
    γ, for both (choice); with `per_pass` each does for itself.
    """

    gives = "gamma"
    rel_l1_thresh: float = 0.1
    ret_ratio: float = 0.2
    probe_depth: int = 1
    per_pass: bool = False
    config: DiTConfig | None = field(default=None, compare=False)  # checks `probe_depth`

    def __post_init__(self) -> None:
        check_number("rel_l1_thresh", self.rel_l1_thresh, 0)
        check_number("ret_ratio", self.ret_ratio, 0, 1)
        blocks = None if self.config is None else self.config.double + self.config.single
        check_int("probe_depth", self.probe_depth, 1, blocks)

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(probe for probes in self.of_passes for probe in probes)

    @property
    def of_passes(self) -> tuple[Probes, ...]:
        """The probes of the deciding passes."""
        common = {"after": self.probe_depth, "kept_by": 0}
        return tuple(
            Probes(
                Probe("image", which_pass=i, after=self.probe_depth),
                Probe("residual", "kept", which_pass=i, **common),
                Probe("residual", "before", which_pass=i, **common),
            )
            for i in range(1 + self.per_pass)
        )

    def start(self, setting: Setting) -> tuple[Probed, ...]:
        return (Probed(),) * min(len(self.of_passes), setting.passes)

    def decide(
        self, setting: Setting, step: Step, seen: Seen, memory: tuple[Probed, ...]
    ) -> Answer:
        if step.index < self._forced(setting):
            watch = tuple(
                each for p in self.of_passes[: setting.passes] for each in (p.change, p.kept)
            )
            return setting.full._replace(watch=watch)
        for probes, probed in zip(self.of_passes, memory, strict=False):
            if probes.change not in seen:
                return Ask(probes.change)
            is_aligned = probed.spread is not None and self._is_small(probes, seen, probed)
            if is_aligned and probes.before not in seen:
                return Ask(probes.before)
        return self._plan(setting, seen, memory)

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: tuple[Probed, ...]
    ) -> tuple[Probed, ...]:
        is_forced = step.index < self._forced(setting)
        return tuple(
            Probed(0.0, _known(seen[probes.kept].numerator))
            if is_forced or not self._is_small(probes, seen, probed)
            else probed._replace(total=probed.total + seen[probes.change].ratio)
            for probes, probed in zip(self.of_passes, memory, strict=False)
        )

    def _forced(self, setting: Setting) -> int:
        return max(1, int(self.ret_ratio * len(setting.steps)))

    def _plan(self, setting: Setting, seen: Seen, memory: tuple[Probed, ...]) -> StepPlan:
        computes, watch, given = [], [], []
        for probes, probed in zip(self.of_passes, memory, strict=False):
            computes.append(not self._is_small(probes, seen, probed))
            watch += [probes.kept] * computes[-1]
            given.append((_gamma(seen, probes, probed),))
        times = setting.passes // len(computes)
        plan = setting.by_pass(computes * times, tuple(watch))
        return plan._replace(given_by_pass=tuple(given * times))

    def _is_small(self, probes: Probes, seen: Seen, probed: Probed) -> bool:
        """True where the pass is to be reused; not where a change is NaN."""
        return probed.total + seen[probes.change].ratio <= self.rel_l1_thresh


def _gamma(seen: Seen, probes: Probes, probed: Probed) -> float:
    if probes.before not in seen or not probed.spread:
        return 1.0
    return min(max(seen[probes.before].numerator / probed.spread, 1.0), 1.5)


def _known(number: float) -> float | None:
    return None if number != number else number
