"""The seam of every text encoder. Knows no model, and no encoder either."""

from collections.abc import Sequence
from typing import Protocol

from ..conditioning import Conditioning


class TextEncoder(Protocol):
    """Turns prompts into a conditioning; "" is the unconditional prompt."""

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of one sample per prompt, in order; ValueError for an unknown prompt."""
