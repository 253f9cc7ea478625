"""Placements of methods that act at guidance too, some of them in one pass only."""

from dataclasses import dataclass

from ...config import DiTConfig
from ..site import Site
from .branches import Attentions


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
