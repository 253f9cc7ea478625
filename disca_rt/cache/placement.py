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
class BranchesOrHidden:
    """Every branch, or with `features` "hidden" the tokens after the last block; one slot."""

    features: Literal["branches", "hidden"] = "branches"

    def __post_init__(self) -> None:
        if self.features not in ("branches", "hidden"):
            raise ValueError(f"features must be branches or hidden, got {self.features!r}")

    def sites(self, config: DiTConfig) -> Sequence[Site]:
        return (EveryBranch() if self.features == "branches" else Whole()).sites(config)


@dataclass(frozen=True)
class LastBlockApart:
    """Every branch of the last block, then those of all blocks before it; two slots, or one."""

    def sites(self, config: DiTConfig) -> list[Site]:
        last, names = config.double + config.single - 1, (*DOUBLE, "total")
        before = [Site("branch", 0, last, names)] * (last > 0)
        return [Site("branch", last, last + 1, names), *before]


@dataclass(frozen=True)
class ConditionalAttentions(Attentions):
    """The attention outputs of every block in the conditional pass; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [site._replace(only_pass=0) for site in super().sites(config)]


@dataclass(frozen=True)
class TextBranches:
    """The text rows' attention and MLP of every double block; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("branch", 0, config.double, ("txt_attn", "txt_mlp"))]


@dataclass(frozen=True)
class SelfAttentions:
    """The image rows' attention of double blocks and that of single blocks, as T-GATE reuses it.

    One slot; none where both intervals are 1, which reuse none.
    """

    sp_interval: int = 5
    fi_interval: int = 1

    def sites(self, config: DiTConfig) -> list[Site]:
        site = Site("branch", 0, config.double + config.single, ("img_attn", "attn"))
        return [site] if max(self.sp_interval, self.fi_interval) > 1 else []


@dataclass(frozen=True)
class Prefixes:
    """The tokens after each of `blocks` in the conditional pass; a slot for each."""

    blocks: tuple[int, ...] | None = None

    def sites(self, config: DiTConfig) -> list[Site]:
        stops = prefix_stops(self.blocks, config)
        return [Site("blocks", 0, stop, only_pass=0) for stop in stops]


def prefix_stops(blocks: tuple[int, ...] | None, config: DiTConfig) -> tuple[int, ...]:
    """The ends of ranges from the first block on that contain block number 10, 20 and 30 of 60.

    In other models of as many shares of their blocks (choice). `blocks` are numbers in their place.
    """
    total = config.double + config.single
    if blocks is None:
        stops = {round(number * total / 60) + 1 for number in (10, 20, 30)}
        return tuple(sorted(stop for stop in stops if stop < total))
    if not all(0 <= each < total - 1 for each in blocks) or list(blocks) != sorted({*blocks}):
        raise ValueError(
            f"blocks must be numbers from 0 to {total - 2} that increase, got {list(blocks)}"
        )
    return tuple(block + 1 for block in blocks)


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
