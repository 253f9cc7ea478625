"""Joint tokens of a step: the places of image and text, and what else all blocks share."""

from typing import NamedTuple

from torch import Tensor


class TokenLayout(NamedTuple):
    """The places of image and text among the tokens `[B, S, C]` that a block is given.

    Image first: `img_len` rows; text after it. `lengths [B]` counts image plus valid text tokens of
    each whole sample on the device, the rest is padding; None where nothing is padding. `whole` is
    the number of image and of text tokens where those at hand are a rank's share of them, of which
    the first is number `start` of all. `grid` is (T, H, W) of all image tokens in patches.
    """

    img_len: int
    lengths: Tensor | None
    whole: tuple[int, int] | None = None
    start: int = 0
    grid: tuple[int, int, int] | None = None


class StepContext(NamedTuple):
    """Inputs of all blocks of a step: `vec [B, C]`, rotary tables `[S_img, D/2]`, layout."""

    vec: Tensor
    freqs_cos: Tensor
    freqs_sin: Tensor
    layout: TokenLayout
