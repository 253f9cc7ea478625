"""Placements over whole passes: all blocks, all but the last, the outputs of passes."""

from dataclasses import dataclass
from typing import Literal

from ...config import DiTConfig
from ..options import check_choice
from ..site import Site, whole


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
class NoisyVelocity:
    """The guided velocity, where `prior_noise` is added."""

    prior_noise: float = 0.003

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("velocity")] if self.prior_noise else []


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
