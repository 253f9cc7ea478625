"""Placements over ranges of blocks."""

from dataclasses import dataclass

from ...config import DiTConfig
from ..ranges import middles
from ..site import Site


@dataclass(frozen=True)
class Middles:
    """Each kind of blocks without its first Fn and its last Bn ones (DBCache); a slot for each.

    A kind that has no more blocks than these always runs whole, which is our choice: cache-dit
    refuses it.
    """

    Fn_compute_blocks: int = 8
    Bn_compute_blocks: int = 0

    def sites(self, config: DiTConfig) -> list[Site]:
        return [e.site for e in middles(config, self.Fn_compute_blocks, self.Bn_compute_blocks)]


@dataclass(frozen=True)
class AfterFirst:
    """All blocks but the first."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("blocks", 1, config.double + config.single)]
