"""A conditioning as the steps use it: made once per sample, the same at every step.

Padding text is dropped, embeddings that do not depend on t and rotary tables are computed, so that
no step rebuilds them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tokens import TokenLayout


class ValidTokens(NamedTuple):
    """Tokens `[B, L, C]` with the valid ones in front; `lengths [B]` counts them (None: all).

    `counts` are the `lengths` on the host, None where these are for the device alone.
    """

    tokens: Tensor
    lengths: Tensor | None
    counts: tuple[int, ...] | None = None


def drop_padding(tokens: Tensor, mask: Tensor, multiple: int = 1) -> ValidTokens:
    """Move valid tokens to the front, in order, and cut what is padding in every sample.

    Exact: text tokens carry no position, and padding is never attended to. At batch 1 (or equal
    counts) nothing is left to mask and `lengths` is None. `tokens [B, L, C]`, `mask [B, L]`.

    With a `multiple` above 1 their number is rounded up to one, with zeros where tokens are too
    few, and only the device knows the counts: what is captured for one text serves another.
    """
    lengths = mask.bool().sum(1, dtype=torch.int32)
    counts = tuple(lengths.tolist())
    kept = -(-max(counts) // multiple) * multiple
    order = mask.bool().logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, :kept]
    tokens = tokens.gather(1, order[:, :, None].expand(-1, -1, tokens.shape[-1]))
    if multiple > 1:
        return ValidTokens(F.pad(tokens, (0, 0, 0, kept - tokens.shape[1])), lengths)
    if len(set(counts)) == 1:
        return ValidTokens(tokens, None)
    return ValidTokens(tokens, lengths, counts)


class FirstFrame(NamedTuple):
    """A clean first frame: `latents [B, C, 1, H, W]` fp32, and the vector `[B, C]` of its rows."""

    latents: Tensor
    vec: Tensor

    def hold(self, latents: Tensor) -> Tensor:
        """`latents [B, C, T, H, W]` with this frame in the place of theirs, in the wider dtype."""
        return torch.cat([self.latents, latents[:, :, 1:]], dim=2)


class Edit(NamedTuple):
    """A video of which a part is made anew: the rest follows it at every noise level.

    `original` are its latents and `noise` the sample's, both `[B, C, T, H, W]` fp32; `cells
    [T, H, W]` are true where latents are made anew, `rows [S_img]` uint8 are 1 where a token is.
    """

    original: Tensor
    noise: Tensor
    cells: Tensor
    rows: Tensor

    def at(self, sigma: Tensor | float) -> Tensor:
        """The original at a noise level, (1 - sigma)·original + sigma·noise: exact at 0 and 1."""
        return self.original.lerp(self.noise, sigma)

    def hold(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """`latents [B, C, T, H, W]` at a noise level, the original's where nothing is made anew."""
        return torch.where(self.cells, latents, self.at(sigma))

    def of_samples(self, rows: slice) -> "Edit":
        """The edit of some samples of the batch."""
        return self._replace(original=self.original[rows], noise=self.noise[rows])


class Prepared(NamedTuple):
    """A sample's conditioning as the steps use it; the same at every step.

    `text_states [B, L, text_dim]` valid first; `text_lengths [B]` or None; `pooled [B, C]` the
    embedded `text_states_2`; `condition_tokens [B, L', C]` embedded vision and byT5 tokens (1.5);
    `order [B, L'']` gathers [condition, text] tokens into valid-first order; `lengths [B]` or None
    counts image plus valid text tokens; `text_counts` and `counts` are both lengths on the host,
    None where captures serve any; `freqs_cos, freqs_sin [S_img, D/2]` fp32; `grid` is
    (T, H, W) in patches; `first` is None unless the sample begins with a given frame, `edit` unless
    it changes a part of a given video.
    """

    text_states: Tensor
    text_lengths: Tensor | None
    pooled: Tensor | None
    condition_tokens: Tensor | None
    order: Tensor | None
    cond_latents: Tensor | None
    lengths: Tensor | None
    freqs_cos: Tensor
    freqs_sin: Tensor
    grid: tuple[int, int, int]
    first: FirstFrame | None = None
    edit: Edit | None = None
    text_counts: tuple[int, ...] | None = None
    counts: tuple[int, ...] | None = None

    def repeated(self, count: int) -> "Prepared":
        """Inputs of the `timed` part of a step, `count` times over: as many steps at once."""
        text, lengths, pooled = (
            None if each is None else each.repeat(count, *[1] * (each.ndim - 1))
            for each in (self.text_states, self.text_lengths, self.pooled)
        )
        return self._replace(
            text_states=text,
            text_lengths=lengths,
            text_counts=self.text_counts and self.text_counts * count,
            pooled=pooled,
        )

    @property
    def text_layout(self) -> TokenLayout:
        """The layout of the text states alone."""
        return TokenLayout(0, self.text_lengths, counts=self.text_counts)

    @property
    def tokens(self) -> int:
        """Joint tokens per sample: image, then text with the padding that is left."""
        if self.order is not None:
            return len(self.freqs_cos) + self.order.shape[1]
        parts = [self.freqs_cos[None], self.text_states, self.condition_tokens]
        return sum(part.shape[1] for part in parts if part is not None)
