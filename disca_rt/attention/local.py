"""Attention as the blocks see it: hand over v, k, q as each is ready, then ask for the result.

The staging lets an implementation start moving v while k and q are still being computed, and hide
the rest under work the block has anyway (`Work`). Local attention has nothing to move and
implements it trivially. This module knows tokens and heads, no models and no ranks.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..kernels.launch import measured_attention
from ..kernels.packing import Packing
from ..sharding import Sharding, Whole
from ..tokens import TokenLayout
from .flash_packages import DTYPES, PACKAGES, flash_attend, flash_function, is_here


class Work(Protocol):
    """What a block can do while tokens are on their way."""

    def advance(self) -> None:
        """Do the next piece, if one is left."""


class NoWork:
    """Of a block that has nothing else to do."""

    def advance(self) -> None:
        pass


class AttentionHandle(Protocol):
    """One attention in flight, over joint tokens `[B, S, H, D]`.

    Where `packing` is not None once v is put, k and q are wanted in the layout of
    `rms_norm_rope_send`.
    """

    packing: Packing | None

    def put_v(self, v: Tensor) -> None: ...

    def put_k(self, k: Tensor) -> None: ...

    def put_q(self, q: Tensor) -> None: ...

    def result(self, work: Work) -> Tensor:
        """The attention output `[B, S, H·D]`; `work` is advanced where there is time for it."""


class Attention(Protocol):
    """What a model is given when it is built.

    `local` is the attention over tokens that every rank has anyway, such as the token refiner's.
    `sharding` says which of a sample's tokens the blocks are given.
    """

    local: "LocalAttention"
    sharding: Sharding

    def prepare(self, heads: int) -> None:
        """Get ready for models with `heads` heads, before their first forward."""

    def begin(self, layout: TokenLayout) -> AttentionHandle:
        """Start one attention over tokens laid out so; padding is not attended to."""


class LocalAttention:
    """All tokens and all heads are here. `backend` is a name that `get_backend` knows."""

    def __init__(self, backend: str = "sdpa") -> None:
        self.name, self.backend = backend, get_backend(backend)
        self.sharding = Whole()

    @property
    def local(self) -> "LocalAttention":
        return self

    def prepare(self, heads: int) -> None:
        """Nothing to do: all heads are here."""

    def begin(self, layout: TokenLayout) -> "LocalHandle":
        return LocalHandle(self.backend, layout.lengths)


class LocalHandle:
    """Collects the three tensors and calls the backend: there is nothing to overlap."""

    packing = None

    def __init__(self, backend: "Backend", lengths: Tensor | None) -> None:
        self._backend, self._lengths = backend, lengths

    def put_v(self, v: Tensor) -> None:
        self._v = v

    def put_k(self, k: Tensor) -> None:
        self._k = k

    def put_q(self, q: Tensor) -> None:
        self._q = q

    def result(self, work: Work) -> Tensor:
        valid = None
        if self._lengths is not None:
            places = torch.arange(self._k.shape[1], device=self._k.device)
            valid = places < self._lengths[:, None]
        return self._backend(self._q, self._k, self._v, valid).flatten(2)


Backend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`q, k, v [B, S, H, D]` and which keys are `valid [B, S]` (None: all) -> `[B, S, H, D]`."""

CPU_VECTOR = 16  # fp32 values: at width 14 attention took 19 ms, padded to 16 it takes 12


def _sdpa(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    """PyTorch chooses the kernel."""
    if q.device.type != "cpu":
        return _attend(q, k, v, valid)
    # A CPU's fused kernel is fastest in fp32, and on whole vectors of it.
    width, dtype = q.shape[-1], q.dtype
    at_least_fp32 = torch.promote_types(dtype, torch.float32)
    q, k, v = (F.pad(x.to(at_least_fp32), (0, -width % CPU_VECTOR)) for x in (q, k, v))
    with torch.autocast("cpu", enabled=False):
        return _attend(q, k, v, valid, width)[..., :width].to(dtype)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, width: int | None = None
) -> Tensor:
    """`width`: D before padding."""
    mask = None if valid is None else valid[:, None, None, :]
    scale = (width or q.shape[-1]) ** -0.5
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.transpose(1, 2)


REFUSALS = ("No available kernel", "No viable backend")  # of a GPU and of a CPU


def _forced(kernel: SDPBackend) -> Backend:
    """One kernel of PyTorch's or a ValueError: an explicit choice never falls back."""

    def attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        try:
            with sdpa_kernel(kernel):
                return _attend(q, k, v, valid)
        except RuntimeError as error:
            if not any(refusal in str(error) for refusal in REFUSALS):
                raise
            padding = "no padding" if valid is None else "padding"
            raise ValueError(
                f"attention backend {kernel.name.lower()} cannot run on {q.device.type} with "
                f"{q.dtype}, head width {q.shape[-1]} and {padding}; choose sdpa"
            ) from error

    return attend


def _automatic(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    name = automatic(q.shape[-1], q.dtype, q.device, valid is not None)
    return get_backend(name)(q, k, v, valid)


AUTOMATIC = "auto"
BACKENDS: dict[str, Backend] = {
    AUTOMATIC: _automatic,
    "sdpa": _sdpa,
    "cudnn": _forced(SDPBackend.CUDNN_ATTENTION),
    "flash": _forced(SDPBackend.FLASH_ATTENTION),
    "efficient": _forced(SDPBackend.EFFICIENT_ATTENTION),
    "math": _forced(SDPBackend.MATH),
}


def get_backend(name: str) -> Backend:
    """The backend called `name`; ValueError lists the known names, or says what to install."""
    if name in PACKAGES:
        flash_function(name)
        return partial(flash_attend, name)
    if name not in BACKENDS:
        known = sorted({*BACKENDS, *PACKAGES})
        raise ValueError(f"attention backend must be one of {known}, got {name!r}")
    return BACKENDS[name]


def automatic(
    width: int, dtype: torch.dtype, device: torch.device, has_padding: bool = False
) -> str:
    """What "auto" is for heads of `width`.

    By the launch table, the fastest one that is installed, in 16 bits on a GPU where nothing is
    padding; else, and where `disca-rt tune` has not measured, sdpa.
    """
    if device.type == "cpu" or dtype not in DTYPES or has_padding:
        return "sdpa"
    order = measured_attention(width, device)
    return next((name for name in order if name in BACKENDS or is_here(name)), "sdpa")


def settled(name: str, width: int, dtype: torch.dtype, device: torch.device) -> str:
    """`name`, or what it stands for."""
    return automatic(width, dtype, device) if name == AUTOMATIC else name
