"""The protocol of stand-ins: they keep tensors of a step and give a value in later ones."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..attention.protocol import AttentionInputs
from ..config import PredictorConfig
from ..tokens import StepContext
from .site import Level


class TensorSpec(NamedTuple):
    """Shape, dtype and device of a tensor at a site; on the host it may be pinned."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    is_pinned: bool = False

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def empty(self) -> Tensor:
        """A new tensor of this form, with anything in it."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)

    def zeros(self) -> Tensor:
        """A new tensor of this form."""
        placed = {"device": self.device, "pin_memory": self.is_pinned}
        return torch.zeros(self.shape, dtype=self.dtype, **placed)


Kept = tuple[Tensor, ...]
"""Buffers of one place, written in place: their addresses stay, so that a graph may hold them."""


class Moment(NamedTuple):
    """The arguments of a stand-in at one place of one step.

    `entering` is what the computation would start from: tokens, no tensor (None) at "branch" and
    "attention", the conditional pass's patches, latents. `context` is that of the pass, at
    "guidance" of the conditional one, None at "velocity"; at "attention" its layout has the places
    of all tokens. `numbers` are the stand-in's scalars of this step, fp32, on the device; None
    where it has none. `attention` are the arguments of attention, at "attention". `conditional` are
    the buffers of the same place in the conditional pass, if it has that place.
    """

    entering: Tensor | None
    context: StepContext | None
    numbers: Tensor | None
    attention: AttentionInputs | None = None
    conditional: Kept | None = None


class PairShares(NamedTuple):
    """Shares of attention's pairs of query and key that a stand-in at "attention" computes.

    `value` in place of all of them; `keep` beside all of them, where it keeps something.
    """

    value: float = 0.0
    keep: float = 0.0


class StandIn(Protocol):
    """Gives the value at a site without the computation there. Hashable; keeps nothing itself.

    Tensors: at "blocks" joint tokens `[B, S, C]`, at "branch" the branch's rows, at "attention"
    `[B, S, H, D]` of all tokens (under ranks too) and this rank's heads, at "guidance"
    patches `[B, S_img, P]` of the unconditional pass, at "velocity" `[B, C, T, H, W]` fp32.
    """

    levels: tuple[Level, ...]
    network: PredictorConfig | None  # a network that `value` runs, for those who count its work
    reads_to_keep: bool  # False where `keep` writes the buffers without reading what is in them

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        """The buffers of a place whose value is `like`; they begin as zeros."""

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Scalars of step number `step`, after keeping at the steps `kept_at`; always as many.

        `given` are the plan's, or none.
        """

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        """What it computes at "attention" of image tokens in `grid` (T, H, W) and `text` tokens."""

    def out(self, kept: Kept) -> Tensor | None:
        """A buffer in which the value to be kept may be computed, or None."""

    def keep(self, kept: Kept, value: Tensor, at: "Moment") -> None:
        """Keep a computed `value`."""

    def value(self, kept: Kept, at: "Moment") -> Tensor:
        """The value in place of the computation."""


class Numberless:
    """A base for stand-ins that need no scalars, run no network and attend to nothing."""

    network: PredictorConfig | None = None
    reads_to_keep: bool = True

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """No scalars."""
        return ()

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        """No pairs."""
        return PairShares()
