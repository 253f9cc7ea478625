"""Reuse of the final hidden state: a step that is not full takes the last full step's tokens.

DisCa's cache with nothing learned, and the baseline that the paper measures it against.
"""

from torch import Tensor

from ..tokens import StepContext
from .disca import DisCaPolicy


class ReusePolicy(DisCaPolicy):
    name = "reuse"

    def __init__(self) -> None:
        super().__init__(_the_cached)


def _the_cached(current: Tensor, cached: Tensor, context: StepContext) -> Tensor:
    return cached
