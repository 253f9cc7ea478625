"""The protocol of placements: which sites of a model a method acts on.

Placements are frozen dataclasses, as rules and stand-ins are: their fields are options that a user
may set, but for those named as in `Parts`, which the table fills in.
"""

from collections.abc import Sequence
from typing import Protocol

from ..config import DiTConfig
from .site import Site


class Placement(Protocol):
    """Sites, in the order of the policy's slots."""

    def sites(self, config: DiTConfig) -> Sequence[Site]:
        """The sites in a model of these sizes; ValueError where the options do not fit it."""
