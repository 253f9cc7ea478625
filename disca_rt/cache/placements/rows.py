"""Placements of methods that compute some rows anew: which branches or blocks are one slot."""

from dataclasses import dataclass

from ...config import DiTConfig
from ..site import Site, whole


@dataclass(frozen=True)
class DoubleMLPs:
    """The MLPs of the double blocks, image and text; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("branch", 0, config.double, ("img_mlp", "txt_mlp"))]


@dataclass(frozen=True)
class AllButDoubleMLPs:
    """The other branches: attention of the double blocks, single blocks whole; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        names = "img_attn", "txt_attn", "total"
        return [Site("branch", 0, config.double + config.single, names)]


@dataclass(frozen=True)
class LastDouble:
    """The last double block: the tokens after it."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("blocks", config.double - 1, config.double)]


@dataclass(frozen=True)
class IfTokensMove:
    """All blocks together where there is a `motion_threshold`; otherwise nowhere."""

    motion_threshold: float | None = None

    def sites(self, config: DiTConfig) -> list[Site]:
        return [] if self.motion_threshold is None else [whole(config)]
