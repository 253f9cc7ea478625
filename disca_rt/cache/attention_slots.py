"""The slots of DiTFastAttn's plans: for each way of attention in a plan, one in each block."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ..config import DiTConfig
from .attention_plan import REUSE, SHARED, WINDOW, Ways, as_plan
from .options import File
from .site import DOUBLE, SINGLE, Site


class Kind(NamedTuple):
    """A kind of slot: each has one slot for every block, if a plan has its `part`."""

    part: str
    level: str


KINDS = Kind(REUSE, "branch"), Kind(WINDOW, "attention"), Kind(SHARED, "attention")
"""The kinds of slot, in the order of a policy's slots."""


@dataclass(frozen=True)
class _OfPlan:
    """Slots of one kind, one for each block; with no plan one window slot for all of them.

    An `interval` says that there is no plan.
    """

    fitted_in: ClassVar[str] = "ditfastattn"
    fitted: ClassVar[tuple[str, ...]] = ("plan",)
    fitted_unless: ClassVar[tuple[str, ...]] = ("interval",)
    plan: File | Ways | None = None  # the plan itself once built

    def __post_init__(self) -> None:
        if self.plan is not None:
            object.__setattr__(self, "plan", as_plan(self.plan))

    def _sites(self, config: DiTConfig, kind: Kind) -> list[Site]:
        blocks = config.double + config.single
        names = tuple(each for each in (*DOUBLE, *SINGLE) if each.endswith("attn"))
        names = names if kind.level == "branch" else ()
        if self.plan is None:
            return [Site(kind.level, 0, blocks, names)] if kind.part == WINDOW else []
        if self.plan.blocks != blocks:
            raise ValueError(
                f"plan is of {self.plan.blocks} blocks, and the model has {blocks}; make one for it"
            )
        is_used = self.plan.has(kind.part)
        return [Site(kind.level, i, i + 1, names) for i in range(blocks) if is_used]


class ReusedOutputs(_OfPlan):
    """The attention branches of each block, where the plan reuses outputs."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return self._sites(config, KINDS[0])


class Windows(_OfPlan):
    """The attention of each block, where the plan has windows."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return self._sites(config, KINDS[1])


class SharedBetweenPasses(_OfPlan):
    """The attention of each block, where the plan shares it between passes."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return self._sites(config, KINDS[2])
