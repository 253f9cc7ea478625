"""A stand-in whose buffers take less of the device: in FP8, in the host's memory, or both.

Each place's buffers are read into the model's dtype when they are used, and written back when
something is kept, one place at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ...config import PredictorConfig
from ..policy import Policy, Slot
from ..site import Level, Site
from ..stand_in import (
    Kept,
    Moment,
    PairShares,
    Place,
    StandIn,
    TensorSpec,
    Terms,
)

State = Literal["device", "fp8", "host", "fp8-host"]
STATES: tuple[State, ...] = ("device", "fp8", "host", "fp8-host")

HOST = torch.device("cpu")
FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max


@dataclass(frozen=True)
class KeptElsewhere:
    """`stand_in` with buffers in FP8 (e4m3, a scale for each row) where `fp8`, and `on_host`.

    FP8 rounds to 4 bits: relative errors of up to 6 % of a value, 2^-9 of its row's largest.
    """

    stand_in: StandIn
    fp8: bool
    on_host: bool

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.stand_in.levels

    @property
    def reads_to_keep(self) -> bool:
        return self.stand_in.reads_to_keep

    @property
    def reads_other_pass(self) -> bool:
        return self.stand_in.reads_other_pass

    @property
    def needs_kept(self) -> bool:
        return self.stand_in.needs_kept

    @property
    def refreshes(self) -> bool:
        return self.stand_in.refreshes

    @property
    def mixes_samples(self) -> bool:
        return self.stand_in.mixes_samples

    @property
    def takes(self) -> str:
        return self.stand_in.takes

    @property
    def matrices(self) -> int:
        return self.stand_in.matrices

    @property
    def network(self) -> PredictorConfig | None:
        return self.stand_in.network

    @property
    def has_keys(self) -> bool:
        return self.stand_in.has_keys

    @property
    def fitted_in(self) -> str | None:
        return self.stand_in.fitted_in

    @property
    def fitted(self) -> tuple[str, ...]:
        return self.stand_in.fitted

    @property
    def fitted_unless(self) -> tuple[str, ...]:
        return self.stand_in.fitted_unless

    def at_site(self, site: Site) -> "KeptElsewhere":
        return replace(self, stand_in=self.stand_in.at_site(site))

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        """The FP8 values of each buffer and then their scales, or the buffer as it is."""
        specs: list[TensorSpec] = []
        for spec in self.stand_in.kept_specs(like):
            if self.on_host:
                spec = spec._replace(device=HOST, is_pinned=like.device.type == "cuda")
            if self._is_coded(spec.dtype):
                scales = spec._replace(shape=(*spec.shape[:-1], 1))
                specs += [spec._replace(dtype=FP8), scales]
            else:
                specs.append(spec)
        return tuple(specs)

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        return self.stand_in.numbers(kept_at, step, given)

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        return self.stand_in.pair_shares(grid, text)

    def out(self, kept: Kept) -> Tensor | None:
        """None: a value is computed on the device, in the model's dtype."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        if self.stand_in.reads_to_keep:
            buffers = self._read(kept, value.device)
        else:
            like = TensorSpec(tuple(value.shape), value.dtype, value.device)
            buffers = tuple(spec.empty() for spec in self.stand_in.kept_specs(like))
        self.stand_in.keep(buffers, value, at)
        self._write(buffers, kept)

    def _write(self, buffers: Kept, kept: Kept) -> None:
        rest = iter(kept)
        for buffer in buffers:
            for stored in self._coded(buffer):
                next(rest).copy_(stored, non_blocking=True)

    def _coded(self, buffer: Tensor) -> tuple[Tensor, ...]:
        """A buffer as it is stored: its FP8 values and their scales, or itself."""
        if not self._is_coded(buffer.dtype):
            return (buffer,)
        scales = (buffer.abs().amax(-1, keepdim=True).float() / LARGEST).to(buffer.dtype)
        scales = scales.clamp(min=torch.finfo(buffer.dtype).tiny)  # of a row of zeros
        values = (buffer.float() / scales.float()).clamp(-LARGEST, LARGEST)
        return values.to(FP8), scales

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return self.stand_in.value(*self._here(kept, at))

    def terms(self, kept: Kept, at: Moment) -> Terms:
        return self.stand_in.terms(*self._here(kept, at))._replace(stays=False)

    def _here(self, kept: Kept, at: Moment) -> tuple[Kept, Moment]:
        """The stand-in's own buffers, and the moment with those of the other pass."""
        device = _device(at)
        if at.other is not None:
            at = at._replace(other=at.other._replace(kept=self._read(at.other.kept, device)))
        return self._read(kept, device), at

    def row_count(self, place: Place, rows: int) -> int:
        return self.stand_in.row_count(place, rows)

    def refresh(self, kept: Kept, compute: Callable[..., Tensor], at: Moment) -> Tensor:
        buffers = self._read(kept, _device(at))
        value = self.stand_in.refresh(buffers, compute, at)
        self._write(buffers, kept)
        return value

    def _is_coded(self, dtype: torch.dtype) -> bool:
        return self.fp8 and dtype.is_floating_point

    def _read(self, kept: Kept, device: torch.device) -> Kept:
        """The stand-in's own buffers on `device`; scales have its dtype."""
        rest = [buffer.to(device, non_blocking=True) for buffer in kept]
        buffers = []
        while rest:
            buffer = rest.pop(0)
            if buffer.dtype == FP8:
                scales = rest.pop(0)
                buffer = (buffer.float() * scales.float()).to(scales.dtype)
            buffers.append(buffer)
        return tuple(buffers)


def _device(at: Moment) -> torch.device:
    return (at.entering if at.entering is not None else at.context.freqs_cos).device


def with_state(policy: Policy, state: str) -> Policy:
    """`policy` with its slots' buffers kept so; ValueError lists the known ways."""
    if state not in STATES:
        raise ValueError(f"policy {policy.name}: state must be one of {[*STATES]}, got {state!r}")
    if state == "device":
        return policy
    if _reads_in_place(policy):
        raise ValueError(
            f"policy {policy.name}: state must be device, for attention reads its keys in place, "
            f"got {state!r}"
        )
    fp8, on_host = "fp8" in state, "host" in state
    slots = tuple(
        Slot(site, KeptElsewhere(stand_in, fp8, on_host)) for site, stand_in in policy.slots
    )
    return replace(policy, slots=slots)


def _reads_in_place(policy: Policy) -> bool:
    """True where blocks read buffers themselves, keys and values."""
    return any(slot.stand_in.has_keys for slot in policy.slots)


def smaller(policy: Policy) -> list[tuple[str, Policy]]:
    """Variants of `policy` that take less of the device, each with the option that makes it."""
    if not policy.slots or any(isinstance(slot.stand_in, KeptElsewhere) for slot in policy.slots):
        return []
    found: list[tuple[str, Policy]] = []
    for name in ("order", "max_order"):
        if any(getattr(slot.stand_in, name, 0) > 0 for slot in policy.slots):
            slots = [Slot(site, _of_order_0(each, name)) for site, each in policy.slots]
            found.append((f"{name}=0", replace(policy, slots=tuple(slots))))
    if _reads_in_place(policy):
        return found
    return found + [(f"state={state}", with_state(policy, state)) for state in STATES[1:]]


def _of_order_0(stand_in: Any, name: str) -> StandIn:
    return replace(stand_in, **{name: 0}) if getattr(stand_in, name, 0) else stand_in
