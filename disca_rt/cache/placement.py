"""The protocol of placements: which sites of a model a method acts on; and those of many methods.

Placements are frozen dataclasses, as rules and stand-ins are: their fields are options that a user
may set, but for those named as in `Parts`, which the table fills in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..config import DiTConfig
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
class Velocity:
    """The guided velocity."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [Site("velocity")]


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
class ConditionalAttentions(Attentions):
    """The attention outputs of every block in the conditional pass; one slot."""

    def sites(self, config: DiTConfig) -> list[Site]:
        return [site._replace(only_pass=0) for site in super().sites(config)]
