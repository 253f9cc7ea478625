"""The protocol of stand-ins: they keep tensors of a step and give a value in later ones."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from ..attention.kept_keys import Rows
from ..attention.protocol import AttentionInputs
from ..config import PredictorConfig
from ..sharding import Sharding, Whole
from ..tokens import StepContext
from .site import Level, Site


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

Place = tuple[int, str]
"""A block, and a branch of it or `ATTENTION`; `WHOLE` of a slot that is in no block."""

WHOLE: Place = -1, ""
ATTENTION = "attention"

Beside = tuple[tuple[dict[Place, Kept], ...], ...]
"""The buffers of all slots: `[pass][slot]`, by place."""


ALL_HERE = Whole()


class OtherPass(NamedTuple):
    """The buffers of the same place in the other pass, for stand-ins that read them.

    `lengths [B]` counts its image plus valid text tokens; None where nothing is padding.
    """

    kept: Kept
    lengths: Tensor | None


class Moment(NamedTuple):
    """The arguments of a stand-in at one place of one step.

    `entering` is what the computation would start from: tokens, no tensor (None) at "branch" and
    "attention", the conditional pass's patches, latents. `context` is that of the pass, at
    "guidance" of the conditional one, None at "velocity"; at "attention" its layout has the places
    of all tokens, and `attention` the arguments. `numbers` are the stand-in's scalars of this step,
    fp32, on the device; None where it has none. `sharding` says which rows this rank has. `other`
    is for stand-ins that read the other pass; None where there is none. `beside` are the buffers of
    all slots, for those of one method that share what they keep; `which_pass` is the pass's number.
    `edited [S_img]` uint8 says which of all image tokens an edit makes anew; None: there is none.
    `site` is the slot's; None where the caller is no slot.
    """

    entering: Tensor | None
    context: StepContext | None
    numbers: Tensor | None
    sharding: Sharding = ALL_HERE
    other: OtherPass | None = None
    place: Place = WHOLE
    beside: Beside = ()
    which_pass: int = 0
    attention: AttentionInputs | None = None
    edited: Tensor | None = None
    site: Site | None = None

    def whole_of(self, slot: int, which_pass: int) -> Kept:
        """The buffers of another slot of the method, one that is in no block."""
        return self.beside[which_pass][slot][WHOLE]


class PairShares(NamedTuple):
    """Shares of attention's pairs of query and key that a stand-in at "attention" computes.

    `value` in place of all of them; `keep` beside all of them, where it keeps something.
    """

    value: float = 0.0
    keep: float = 0.0


class Terms(NamedTuple):
    """A value as a sum of tensors: Σ weights[k]·tensors[k], of `tensors [K, ...]`.

    `weights [K]` fp32 are on the device; None for one tensor as it is. Tensors that `stays` are the
    buffers themselves, others have been made for this.
    """

    tensors: Tensor
    weights: Tensor | None = None
    stays: bool = True


class StandIn(Protocol):
    """Gives the value at a site without the computation there. Hashable; keeps nothing itself.

    `StandInDefaults` has what most have. Tensors: at "blocks" joint tokens `[B, S, C]`, at "branch"
    the branch's rows, at "attention" `[B, S, H, D]` of all tokens (under ranks too) and this rank's
    heads, at "guidance" patches `[B, S_img, P]` of the unconditional pass, at "velocity"
    `[B, C, T, H, W]` fp32.
    """

    levels: tuple[Level, ...]
    network: PredictorConfig | None  # a network that `value` runs, for those who count its work
    matrices: int  # C x C products of `value` with every row, likewise
    needs_kept: bool  # False where it keeps nothing, so that it may stand in from the first step on
    reads_to_keep: bool  # False where `keep` writes the buffers without reading what is in them
    reads_other_pass: bool  # True where `value` reads what the other pass kept
    takes: str  # a word for the scalars that it takes from plans; "" where it takes none
    refreshes: bool  # True of a `RowStandIn`
    mixes_samples: bool  # True where a sample's value depends on the others of its batch
    has_keys: bool  # True of `RowsOfAllBlocks`, whose buffers attention reads in place
    fitted_in: str | None  # the calibration's table with options that are left out
    fitted: tuple[str, ...]  # those options
    fitted_unless: tuple[str, ...]  # options that say otherwise what that table does

    def at_site(self, site: Site) -> "StandIn":
        """The stand-in for one of its sites: itself, or one with data of its own there."""

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        """The buffers of a place whose value is `like`; they begin as zeros."""

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """The slot's scalars of step number `step`: `Moment.numbers`, and always as many.

        They are computed on the host. `kept_at` are the earlier steps at which the slot has kept
        something, rising. `given` are the scalars of the step's plan, if the rule `gives` what this
        stand-in `takes`; none under another method's rule, where it needs values of its own.
        """

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        """Shares of pairs computed at "attention", of `grid` (T, H, W) and `text` tokens."""

    def out(self, kept: Kept) -> Tensor | None:
        """A buffer in which the value to be kept may be computed, or None."""

    def keep(self, kept: Kept, value: Tensor, at: "Moment") -> None:
        """Keep a computed `value`."""

    def value(self, kept: Kept, at: "Moment") -> Tensor:
        """The value in place of the computation."""

    def terms(self, kept: Kept, at: "Moment") -> Terms:
        """The same as a sum, of what is kept where it is one; at "branch" it is added late."""


class RowStandIn(StandIn, Protocol):
    """A stand-in that can compute some rows anew, and no others, under `Act.REFRESH`.

    It `refreshes`; what `compute` is of depends on the level: see the three protocols below.
    """

    def row_count(self, place: Place, rows: int) -> int:
        """The number of rows of `rows` at `place` that it computes anew, for those who count."""

    def refresh(self, kept: Kept, compute: Callable[..., Tensor], at: Moment) -> Tensor:
        """The value, of which some rows are computed anew and written into what is kept."""


class RowsOfBranch(RowStandIn, Protocol):
    """A `RowStandIn` at "branch"."""

    def refresh(self, kept: Kept, compute: Callable[[Tensor], Tensor], at: Moment) -> Tensor:
        """`compute(rows)`: values `[B, R, C]` of the rows numbered `rows [B, R]` at this place."""


class RowsOfAllBlocks(RowStandIn, Protocol):
    """A `RowStandIn` at "blocks"; it `has_keys`."""

    def keys(self, kept: Kept, block: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, S, C]` of a block, counted from the first of the site."""

    def refresh(self, kept: Kept, compute: Callable[[Rows], Tensor], at: Moment) -> Tensor:
        """`compute(rows)`: tokens `[B, R, C]` after the blocks, of the joint `rows` `[R]`."""


class RowsOfVelocity(RowStandIn, Protocol):
    """A `RowStandIn` at "velocity"."""

    def refresh(self, kept: Kept, compute: Callable[[], Tensor], at: Moment) -> Tensor:
        """`compute()`: the whole velocity, whose rows not chosen at "blocks" are old ones."""


class KeptAsIs:
    """A base for stand-ins whose first buffer has the value kept last, which may be computed there.

    Ops that write in place save the copy.
    """

    def out(self, kept: Kept) -> Tensor | None:
        return kept[0]

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        if value is not kept[0]:
            kept[0].copy_(value)


class StandInDefaults:
    """A base for all stand-ins: what those have that say nothing else.

    No scalars, network, matrices or pairs of attention, one for all sites, nothing of the other
    pass or of a calibration; it refreshes no rows, and its value is one term.
    """

    network: PredictorConfig | None = None
    matrices: int = 0
    needs_kept: ClassVar[bool] = True
    reads_to_keep: ClassVar[bool] = True
    reads_other_pass: ClassVar[bool] = False
    takes: ClassVar[str] = ""
    refreshes: ClassVar[bool] = False
    mixes_samples: ClassVar[bool] = False
    has_keys: ClassVar[bool] = False
    fitted_in: ClassVar[str | None] = None
    fitted: ClassVar[tuple[str, ...]] = ()
    fitted_unless: ClassVar[tuple[str, ...]] = ()

    def at_site(self, site: Site) -> "StandIn":
        return self

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """No scalars."""
        return ()

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        """No pairs."""
        return PairShares()

    def terms(self, kept: Kept, at: Moment) -> Terms:
        """The value alone."""
        return Terms(self.value(kept, at)[None], stays=False)
