"""The protocol of placements: which sites of a model a method acts on; and those of many methods.

Placements are frozen dataclasses, as rules and stand-ins are: their fields are options that a user
may set, but for those named as in `Parts`, which the table fills in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ..config import DiTConfig
from .options import check_choice, check_int
from .site import DOUBLE, SINGLE, Site, whole


class Placement(Protocol):
    """Sites, in the order of the policy's slots."""

    def sites(self, config: DiTConfig) -> Sequence[Site]:
        """The sites in a model of these sizes; ValueError where the options do not fit it."""


@dataclass(frozen=True)
class Whole:
    """All blocks together."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [whole(config)]


@dataclass(frozen=True)
class BeforeLast:
    """The blocks before the last ones, `no_cache_block_id`, which always run.

    By default the last block alone, number 53 of HunyuanVideo 1.5 in its official "deepcache".
    """

    no_cache_block_id: tuple[int, ...] | None = None

    def sites(self, config: DiTConfig) -> list[Site]:
        blocks = config.double + config.single
        first = blocks - len(self.no_cache_block_id or (0,))
        last = (*range(first, blocks),)
        if self.no_cache_block_id not in (None, last) or not 0 < first < blocks:
            raise ValueError(
                f"no_cache_block_id must be some last ones of {blocks} blocks, such as "
                f"{blocks - 1}, got {list(self.no_cache_block_id or last)}"
            )
        return [Site("blocks", 0, first)]


@dataclass(frozen=True)
class Velocity:
    """The guided velocity."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("velocity")]


@dataclass(frozen=True)
class Output:
    """The guided velocity, or the tokens after all blocks, by `level`."""

    level: Literal["velocity", "blocks"] = "velocity"

    def __post_init__(self) -> None:
        check_choice("level", self.level, ("velocity", "blocks"))

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("velocity") if self.level == "velocity" else whole(config)]


@dataclass(frozen=True)
class Unconditional:
    """The velocity patches of the unconditional pass."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("guidance")]


@dataclass(frozen=True)
class EveryBranch:
    """Every branch of every block, of single blocks attention and MLP together; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("branch", 0, config.double + config.single, (*DOUBLE, "total"))]


@dataclass(frozen=True)
class Attentions:
    """The attention outputs of every block; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        names = tuple(name for name in (*DOUBLE, *SINGLE) if name.endswith("attn"))
        return [Site("branch", 0, config.double + config.single, names)]


@dataclass(frozen=True)
class EveryAttention:
    """Joint attention of every block; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("attention", 0, config.double + config.single)]


@dataclass(frozen=True)
class JointAttention:
    """Joint attention of every block but the first `first_n_dense_layers`; one slot."""

    first_n_dense_layers: int = 2

    def __post_init__(self) -> None:
        check_int("first_n_dense_layers", self.first_n_dense_layers, 0)

    def sites(self, config: DiTConfig) -> list[Site]:
        blocks = config.double + config.single
        if self.first_n_dense_layers >= blocks:
            raise ValueError(
                f"first_n_dense_layers must leave some of {blocks} blocks, got "
                f"{self.first_n_dense_layers}"
            )
        return [Site("attention", self.first_n_dense_layers, blocks)]


@dataclass(frozen=True)
class WholeWhereSkipped:
    """All blocks together where `skip_step_schedule` has steps; no slot otherwise."""

    skip_step_schedule: tuple[int, ...] = ()

    def sites(self, config: DiTConfig) -> list[Site]:
        return [whole(config)] if self.skip_step_schedule else []
