"""The seam of every encoder of prompts. Knows no model, and no encoder either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from ..conditioning import Conditioning

if TYPE_CHECKING:
    from PIL.Image import Image


PictureKind = Literal["cut", "original"] | None


class PromptCheck(Protocol):
    """Finds what encoding would lose, with tokenizers alone, before any network is loaded."""

    def __call__(self, prompts: Sequence[str], *, frames: int | None = None) -> list[str]:
        """A line for each prompt that is cut; ValueError for one that cannot be encoded."""


class TextEncoder(Protocol):
    """Turns prompts, and an image where it takes one, into a conditioning.

    "" is the unconditional prompt. `frames` is the video's length, None where it is not known: a
    single frame may be described to the encoder in other words. `picture` says which image it looks
    at: the one "cut" to the video, the "original", or none.
    """

    picture: PictureKind

    def check(self, prompts: Sequence[str], *, frames: int | None = None) -> list[str]:
        """Find what encoding would lose, with tokenizers alone: a line for each prompt that is cut.

        Raises ValueError for the first prompt that cannot be encoded.
        """

    def __call__(
        self,
        prompts: Sequence[str],
        image: Image | None = None,
        *,
        frames: int | None = None,
        negative: bool = False,
    ) -> Conditioning:
        """Conditioning of one sample per prompt, in order, all of the same `image`.

        `negative`: these are the prompts that guidance steers away from. `cond_latents` is left
        out. Raises ValueError for what `check` refuses, and for an image that it does not take.
        """
