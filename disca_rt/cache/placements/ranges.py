"""Placements over ranges of blocks. Those of one published model are taken to others by proportion.

That, and what inner, front and back blocks of a U-Net are in a DiT, are our choices.
"""

from dataclasses import dataclass

from ...config import DiTConfig
from ..options import check_int
from ..ranges import middles, profiled_double, runs, scaled
from ..site import Site

BACKGROUND = 0, 2, 4, 5, 6, 7, *range(10, 22), 23, 25, 26, 27, 31, 33
"""ProfilingDiT's single blocks of the background, of 40."""


@dataclass(frozen=True)
class Middles:
    """Each kind of blocks without its first Fn and its last Bn ones (DBCache); a slot for each.

    A kind that has no more blocks than these always runs whole, which is our choice: cache-dit
    refuses an Fn above their number, and runs blocks twice where Fn + Bn is above it. Fn None: 8,
    its default, or 1 in a model whose kinds have no more blocks (choice).
    """

    Fn_compute_blocks: int | None = None
    Bn_compute_blocks: int = 0

    def sites(self, config: DiTConfig) -> list[Site]:
        return [e.site for e in middles(config, self.Fn_compute_blocks, self.Bn_compute_blocks)]


@dataclass(frozen=True)
class AfterFirst:
    """All blocks but the first."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("blocks", 1, _blocks(config))]


@dataclass(frozen=True)
class Prefixes:
    """The output of every block, for which no block before it runs; a slot for each."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("blocks", 0, block + 1) for block in range(_blocks(config))]


@dataclass(frozen=True)
class Prefix:
    """The output of block number `index`; None: a third of the blocks, 20 of 60."""

    index: int | None = None

    def sites(self, config: DiTConfig) -> list[Site]:
        blocks = _blocks(config)
        index = scaled(20, 60, blocks) if self.index is None else self.index
        check_int("index", index, 0, blocks - 1)
        return [Site("blocks", 0, index + 1)]


@dataclass(frozen=True)
class BackAndFront:
    """The last `cached_blocks` blocks, and with a `bound` the first ones as well.

    `cached_blocks` None: as many as there are single blocks (DisCa's setting), or two thirds of a
    model that has none.
    """

    bound: int | None = None
    cached_blocks: int | None = None

    def sites(self, config: DiTConfig) -> list[Site]:
        blocks = _blocks(config)
        cached = self.cached_blocks
        if cached is None:
            cached = config.single or scaled(2, 3, blocks)
        check_int("cached_blocks", cached, 1, blocks)
        back = Site("blocks", blocks - cached, blocks)
        return [back] if self.bound is None else [back, Site("blocks", 0, cached)]


@dataclass(frozen=True)
class Inner:
    """All blocks but the first and the last `cache_branch_id` + 1 (DeepCache's outer ones)."""

    cache_branch_id: int = 0

    def sites(self, config: DiTConfig) -> list[Site]:
        blocks = _blocks(config)
        if blocks < 3:
            raise ValueError(f"deepcache needs a model of at least 3 blocks, got one of {blocks}")
        check_int("cache_branch_id", self.cache_branch_id, 0, (blocks - 1) // 2 - 1)
        outer = self.cache_branch_id + 1
        return [Site("blocks", outer, blocks - outer)]


@dataclass(frozen=True)
class FrontHalf:
    """The first half of the blocks (Faster Diffusion's encoder)."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("blocks", 0, max(1, _blocks(config) // 2))]


@dataclass(frozen=True)
class EachBlock:
    """Every block alone; a slot for each."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("blocks", block, block + 1) for block in range(_blocks(config))]


@dataclass(frozen=True)
class Profiled:
    """A range of double blocks, then each run of the single blocks listed (ProfilingDiT).

    `block_cache_list_foreground`, numbers among the single blocks, is the list that the code goes
    by; where it is not given that of the background is, which there is equal.
    """

    block_start_double: int | None = None
    num_blocks_double: int | None = None
    block_cache_list_foreground: tuple[int, ...] | None = None
    block_cache_list_background: tuple[int, ...] | None = None

    def sites(self, config: DiTConfig) -> list[Site]:
        double = profiled_double(config, self.block_start_double, self.num_blocks_double)
        is_given = self.block_start_double is not None or self.num_blocks_double is not None
        if is_given and not 0 <= double.start < double.stop <= config.double:
            raise ValueError(
                f"block_start_double and num_blocks_double must lie within the {config.double} "
                f"double blocks, got {double.start} and {len(double)}"
            )
        singles = [
            Site("blocks", config.double + r.start, config.double + r.stop)
            for r in runs(self._singles(config))
        ]
        return [Site("blocks", double.start, double.stop)] * bool(double) + singles

    def _singles(self, config: DiTConfig) -> list[int]:
        given = self.block_cache_list_foreground or self.block_cache_list_background
        if given is None:
            return [i for i in range(config.single) if i * 40 // config.single in BACKGROUND]
        for number in given:
            check_int("block_cache_list_foreground", number, 0, config.single - 1)
        return sorted({*given})


def _blocks(config: DiTConfig) -> int:
    return config.double + config.single
