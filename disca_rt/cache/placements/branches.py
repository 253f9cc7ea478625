"""Placements on branches: which of them are one slot, that is, are computed or reused together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ...config import DiTConfig
from ..site import DOUBLE, SINGLE, Site
from .whole import Whole

ATTENTIONS = "img_attn", "txt_attn", "attn"
MLPS = "img_mlp", "txt_mlp", "mlp_part"
KINDS = "transformer_blocks", "single_transformer_blocks"
OPEN_SORA_BLOCKS = 28


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
class Broadcasts:
    """PAB's slots: attention of all blocks and, with `mlp_timesteps`, MLPs of the first ones.

    `identifiers` says in diffusers' names which attentions: "default" for those of all blocks,
    "transformer_blocks" for double-stream ones, "single_transformer_blocks". Of MLPs Open-Sora
    takes `mlp_blocks` of its 28 blocks; in a model of others their share (choice).
    """

    identifiers: tuple[str, ...] = ("default",)
    mlp_timesteps: tuple[float, ...] = ()
    mlp_blocks: int = 5

    def sites(self, config: DiTConfig) -> list[Site]:
        blocks = config.double + config.single
        start, stop = self._attentions(config)
        sites = [Site("branch", start, stop, ATTENTIONS)]
        if self.mlp_timesteps:
            if not 1 <= self.mlp_blocks <= OPEN_SORA_BLOCKS:
                raise ValueError(
                    f"mlp_blocks must be from 1 to {OPEN_SORA_BLOCKS}, got {self.mlp_blocks}"
                )
            share = max(1, round(self.mlp_blocks / OPEN_SORA_BLOCKS * blocks))
            sites.append(Site("branch", 0, share, MLPS))
        return sites

    def _attentions(self, config: DiTConfig) -> tuple[int, int]:
        """The first block whose attention is broadcast, and the one after the last."""
        named, blocks = {*self.identifiers}, config.double + config.single
        if named == {"default"} or named == {*KINDS}:
            return 0, blocks
        ranges = dict(zip(KINDS, ((0, config.double), (config.double, blocks)), strict=True))
        start, stop = ranges.get(self.identifiers[0], (0, 0)) if len(named) == 1 else (0, 0)
        if start == stop:
            raise ValueError(
                f"identifiers must be default, or names of {KINDS} that the model has, "
                f"got {','.join(self.identifiers)}"
            )
        return start, stop


@dataclass(frozen=True)
class BranchPairs:
    """A slot for each gate of L2C: a double-stream block's attentions, its MLPs; a single block.

    In the order of the blocks, attention before MLP; image and text go together. Attention and MLP
    of a single-stream block are one branch here (choice): they run in parallel, and are kept as one
    tensor of S·C.
    """

    def sites(self, config: DiTConfig) -> list[Site]:
        return list(pairs(config))


def pairs(config: DiTConfig) -> Iterator[Site]:
    """The sites of `BranchPairs`."""
    for block in range(config.double):
        for kind in ("attn", "mlp"):
            yield Site("branch", block, block + 1, (f"img_{kind}", f"txt_{kind}"))
    for block in range(config.double, config.double + config.single):
        yield Site("branch", block, block + 1, ("total",))


@dataclass(frozen=True)
class Kinds:
    """Two slots: the attentions of all blocks, and their MLPs.

    Of single-stream blocks what each half adds to the tokens: one S·C, where the MLP's hidden
    values would be four, and neither product with `linear2` is left where both are reused.
    """

    def sites(self, config: DiTConfig) -> list[Site]:
        blocks = config.double + config.single
        attentions = "img_attn", "txt_attn", "attn_part"
        return [Site("branch", 0, blocks, each) for each in (attentions, MLPS)]


@dataclass(frozen=True)
class GatedAround:
    """All branches with their gates, in slots of which the first is `cache_loc`'s image attention.

    Choice: the authors measure at block 13 of Open-Sora's 28; here it is the block at that share
    of the model, or the last double-stream one before it: number 19 of HunyuanVideo 1.0.
    """

    cache_loc: int | None = None

    def sites(self, config: DiTConfig) -> list[Site]:
        if config.double == 0:
            raise ValueError("adacache measures a double-stream block, and the model has none")
        at, blocks = self.cache_loc, config.double + config.single
        if at is None:
            at = min(round(13 / OPEN_SORA_BLOCKS * blocks), config.double - 1)
        if not 0 <= at < config.double:
            raise ValueError(f"cache_loc must be from 0 to {config.double - 1}, got {at}")
        others = tuple(name for name in DOUBLE if name != "img_attn")
        whole = (*DOUBLE, "total")
        sites = [Site("branch", at, at + 1, names, gated=True) for names in (("img_attn",), others)]
        ranges = ((0, at), (at + 1, blocks))
        return sites + [Site("branch", *each, whole, True) for each in ranges if each[0] < each[1]]
