"""The rule of a fixed interval whose steps in between are of several kinds, which take turns."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ...schedule import Step
from ..labels import AGGRESSIVE, CLUSCA, FULL, TOCA
from ..options import check_int
from ..plan import Act, Seen, Setting, StepPlan
from ..rule import Memoryless
from .interval import steps_since_full


class Kind(NamedTuple):
    """A kind of step: the label that the authors give it, and the act of each slot."""

    label: str
    acts: tuple[Act, ...]


@dataclass(frozen=True)
class Between(Memoryless):
    """Full in the first `first_enhance` steps, then `fresh_threshold` after the last full one.

    The steps between are of the `kinds`, by turns.
    """

    kinds: ClassVar[tuple[Kind, ...]]
    fresh_threshold: int = 5
    first_enhance: int = 1

    def __post_init__(self) -> None:
        for name in ("fresh_threshold", "first_enhance"):
            check_int(name, getattr(self, name), 1)

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        since = steps_since_full(step.index, self.fresh_threshold, self.first_enhance)
        if since == 0:
            return setting.uniform(Act.KEEP, FULL)
        kind = self.kinds[(since - 1) % len(self.kinds)]
        return StepPlan((kind.acts,) * setting.passes, kind.label)


TOKENS = Kind(TOCA, (Act.STAND_IN, Act.REFRESH))


@dataclass(frozen=True)
class SomeRows(Between):
    """ToCa: between full steps some rows are computed anew at the second slot."""

    kinds: ClassVar[tuple[Kind, ...]] = (TOKENS,)


@dataclass(frozen=True)
class RowOfEachCluster(Between):
    """ClusCa: between full steps, at which the third slot finds clusters, a row of each."""

    kinds: ClassVar[tuple[Kind, ...]] = (Kind(CLUSCA, (*TOKENS.acts, Act.RUN)),)


@dataclass(frozen=True)
class SomeRowsOrNone(Between):
    """DuCa: by turns as ToCa, and the tokens that the step before ended with, at the third slot."""

    kinds: ClassVar[tuple[Kind, ...]] = (
        Kind(TOCA, (*TOKENS.acts, Act.KEEP)),
        Kind(AGGRESSIVE, (Act.RUN, Act.RUN, Act.STAND_IN)),
    )
