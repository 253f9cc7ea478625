"""Placements at joint attention."""

from dataclasses import dataclass

from ...config import DiTConfig
from ..options import check_int
from ..site import Site, whole


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
