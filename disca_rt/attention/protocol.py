"""Attention as the blocks see it: hand over v, k, q as each is ready, then ask for the result.

The staging lets an implementation start moving v while k and q are still being computed, and hide
the rest under work the block has anyway (`Overlap`). Knows tokens and heads, no models, no ranks.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..kernels.packing import Packing
from ..sharding import Sharding
from ..tokens import TokenLayout
from .partial import Partial

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`q [B, Sq, H, D]`, `k, v [B, Sk, H, D]`, which keys are `valid [B, Sk]` (None: all) -> like q."""

AttendWithLengths = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Takes `lengths [B]` int32 in place of `valid`: the first keys of each sample; no gradient."""

AttendWithLSE = Callable[[Tensor, Tensor, Tensor, Tensor | None], Partial]
"""Takes the same arguments and returns output and log-sum-exp of the scores; no gradient."""


class Overlap(Protocol):
    """Work that a block can do while tokens are on their way."""

    def advance(self) -> None:
        """Do the next piece, if one is left."""


class NoOverlap:
    """The `Overlap` of a block that has nothing else to do."""

    def advance(self) -> None:
        pass


class AttentionInputs(NamedTuple):
    """The arguments of one attention of the heads at hand, over all tokens of the sample.

    `q, k, v [B, S, H, D]` are as they are attended, `valid [B, S]` tells keys from padding (None:
    all), `layout` has the places of all tokens, and `backend` computes the attention of queries to
    all keys but padding.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    valid: Tensor | None
    layout: TokenLayout
    backend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

    def to_all_keys(self) -> Tensor:
        """The output `[B, S, H, D]` of attention to all keys."""
        return self.backend(self.q, self.k, self.v, self.valid)


Instead = Callable[[AttentionInputs], Tensor]
"""Gives an attention's output `[B, S, H, D]` in place of the backend's call."""


class AttentionHandle(Protocol):
    """One attention in flight, over joint tokens `[B, S, H, D]`.

    Where `packing` is not None once v is put, k and q are wanted in the layout of
    `rms_norm_rope_send`; where `k_scale` and `q_scale` are not None, in e4m3, divided by these.
    """

    packing: Packing | None
    k_scale: Tensor | None
    q_scale: Tensor | None

    def put_v(self, v: Tensor) -> None: ...

    def put_k(self, k: Tensor) -> None: ...

    def put_q(self, q: Tensor) -> None: ...

    def result(self, overlap: Overlap) -> Tensor:
        """The attention output `[B, S, H·D]`; `overlap` is advanced where there is time for it."""


class Attention(Protocol):
    """The attention that a model is given when it is built.

    `local` is the attention over tokens that every rank has anyway, such as the token refiner's.
    `sharding` says which of a sample's tokens the blocks are given.
    """

    local: "Attention"
    sharding: Sharding

    def prepare(self, heads: int) -> None:
        """Get ready for models with `heads` heads, before their first forward."""

    def takes_lengths(self, width: int, dtype: torch.dtype, device: torch.device) -> bool:
        """Tell whether layouts may keep their `counts` from the host, for heads of `width`.

        It is right in any case, but elsewhere by a mask.
        """

    def begin(self, layout: TokenLayout, instead: Instead | None = None) -> AttentionHandle:
        """Start one attention over tokens laid out so; padding is not attended to.

        `instead`, where given, is called in place of the backend.
        """


class With:
    """`attention`, with `instead` in place of its backend's call."""

    def __init__(self, attention: Attention, instead: Instead) -> None:
        self._attention, self._instead = attention, instead
        self.local, self.sharding = attention.local, attention.sharding
        self.prepare = attention.prepare

    def begin(self, layout: TokenLayout) -> AttentionHandle:
        return self._attention.begin(layout, self._instead)
