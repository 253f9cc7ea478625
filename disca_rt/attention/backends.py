"""The table of attention backends: a row says all that this project knows of a backend.

`LocalAttention`, the ring of ranks, the automatic choice, `disca-rt tune` and the benchmarks read
the table, so a new backend is one row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..kernels.launch import table_name
from ..kernels.launch_table import items, read_section, remembered, table_path
from . import native
from . import pytorch_kernels as pytorch
from . import sparse_packages as packages
from .flash_packages import FA2, FA3, FA4, FlashPackage
from .fp8 import FP8_KERNELS, Fp8Kernel, backend
from .partial import Partial
from .protocol import Attend, AttendWithLengths, AttendWithLSE, AttentionInputs, Instead


@dataclass(frozen=True)
class Backend:
    """A row of the table; calling it attends, or raises ValueError: it never falls back.

    `devices` and `dtypes` are those it runs on, `padding` and `padding_with_lse` the devices where
    it can leave out padding (None: all), `lengths` those where it reads numbers of keys on the
    device. It takes heads of `widths` (None: all), and at least `least_tokens` of both queries and
    keys. `refusals` are parts of what a RuntimeError says where it cannot run for another cause.
    `install` names its package, `pip` what pip is told where that is more, `missing` tells why it
    is not here. `is_measured`: `disca-rt tune` measures it, so it may become the automatic choice.
    `attend_by_places`, where image tokens have places, attends to some keys in place of `attend`.
    """

    name: str
    attend: Attend
    attend_with_lse: AttendWithLSE | None = None
    attend_with_lengths: AttendWithLengths | None = None
    devices: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    padding: tuple[str, ...] | None = None
    padding_with_lse: tuple[str, ...] | None = None
    lengths: tuple[str, ...] | None = None
    widths: range | None = None
    least_tokens: int = 1
    refusals: tuple[str, ...] = ()
    install: str | None = None
    pip: str | None = None
    missing: Callable[[], str | None] = lambda: None
    is_measured: bool = True
    attend_by_places: Instead | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
        has_width = self.widths is None or q.shape[-1] in self.widths
        has_tokens = q.shape[1] >= self.least_tokens <= k.shape[1]
        is_taken = self.takes(q.device.type, q.dtype, valid is not None)
        if not (is_taken and has_width and has_tokens):
            self._refuse(q, valid)
        try:
            return self.attend(q, k, v, valid)
        except RuntimeError as error:
            if not any(refusal in str(error) for refusal in self.refusals):
                raise
            self._refuse(q, valid, error)

    def with_lengths(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
        """Attention to the first `lengths [B]` int32 keys of each sample, read on the device.

        One capture so serves samples of any lengths. It has no gradient; ValueError where
        `takes_lengths` is false.
        """
        width = q.shape[-1]
        if not self.takes_lengths(width, q.dtype, q.device):
            raise ValueError(
                f"attention backend {self.name} cannot read lengths on {q.device.type} with "
                f"{q.dtype} and head width {width}; give it a mask"
            )
        return self.attend_with_lengths(q, k, v, lengths)

    def takes_lengths(self, width: int, dtype: torch.dtype, device: torch.device) -> bool:
        """Tell whether it has `with_lengths` for heads of `width` on `device`."""
        row = self if self.name != AUTOMATIC else BACKENDS[automatic(width, dtype, device)]
        is_there = row.lengths is None or device.type in row.lengths
        return is_there and row.attend_with_lengths is not None and row.takes(device.type, dtype)

    def with_lse(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
        """Attention to some of the keys, and what it takes to merge it with the rest."""
        if self.attend_with_lse is None:
            known = sorted(name for name, row in BACKENDS.items() if row.attend_with_lse)
            raise ValueError(
                f"a ring of ranks needs an attention backend out of {known}, got {self.name!r}"
            )
        if not self.takes(q.device.type, q.dtype):
            self._refuse(q, valid)
        padding = self.padding_with_lse
        if valid is not None and padding is not None and q.device.type not in padding:
            raise ValueError(
                f"attention backend {self.name} cannot leave out padding in a ring of ranks; "
                "choose efficient or math, or texts of one length"
            )
        return self.attend_with_lse(q, k, v, valid)

    @cached_property
    def instead(self) -> Instead | None:
        """Attention in blocks, in place of that to all keys; None where the latter is meant."""
        return None if self.attend_by_places is None else self._by_places

    def _by_places(self, inputs: AttentionInputs) -> Tensor:
        if not self.takes(inputs.q.device.type, inputs.q.dtype, inputs.valid is not None):
            self._refuse(inputs.q, inputs.valid)
        return self.attend_by_places(inputs)

    def takes(self, device: str, dtype: torch.dtype, has_padding: bool = False) -> bool:
        """Tell whether it runs on devices of this type, in this dtype."""
        return (
            (self.devices is None or device in self.devices)
            and (self.dtypes is None or dtype in self.dtypes)
            and (not has_padding or self.padding is None or device in self.padding)
        )

    def _refuse(
        self, q: Tensor, valid: Tensor | None, cause: RuntimeError | None = None
    ) -> NoReturn:
        padding = "no padding" if valid is None else "padding"
        raise ValueError(
            f"attention backend {self.name} cannot run on {q.device.type} with {q.dtype}, head "
            f"width {q.shape[-1]}, {q.shape[1]} tokens and {padding}; choose sdpa"
        ) from cause


def _automatic(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Tensor:
    tokens = min(q.shape[1], k.shape[1])
    name = automatic(q.shape[-1], q.dtype, q.device, valid is not None, tokens=tokens)
    return BACKENDS[name](q, k, v, valid)


def _automatic_with_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    return BACKENDS[automatic(q.shape[-1], q.dtype, q.device)].with_lengths(q, k, v, lengths)


def _automatic_with_lse(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None) -> Partial:
    tokens = min(q.shape[1], k.shape[1])
    name = automatic(q.shape[-1], q.dtype, q.device, valid is not None, True, tokens)
    return BACKENDS[name].with_lse(q, k, v, valid)


def _packaged(name: str, package: FlashPackage, install: str) -> Backend:
    return Backend(
        name,
        package.attend,
        package.attend_with_lse,
        package.attend_with_lengths if package.with_lengths else None,
        devices=GPU,
        dtypes=SIXTEEN_BITS,
        padding=(),
        padding_with_lse=(),
        install=install,
        missing=package.missing,
    )


def _in_fp8(name: str, kernel: Fp8Kernel) -> Backend:
    """Attention in FP8 of any model: scales are looked for at each call, so it is not measured."""
    return Backend(
        name,
        backend(kernel),
        devices=None if kernel.device is None else (kernel.device,),
        dtypes=None if kernel.device is None else SIXTEEN_BITS,
        padding=None if kernel.padding else (),
        install=kernel.install,
        missing=kernel.missing,
        is_measured=False,
    )


def _lossy(name: str, kernel: packages.Kernel) -> Backend:
    """A row of fewer bits, or of some of the keys: never chosen for its speed alone."""
    named = kernel._asdict()
    return Backend(name, **named, devices=GPU, padding=(), padding_with_lse=(), is_measured=False)


AUTOMATIC, DEFAULT = "auto", "sdpa"
MANY = 1024  # tokens: more than any backend needs at least
GPU, CPU = ("cuda",), ("cpu",)
SIXTEEN_BITS = torch.bfloat16, torch.float16

BACKENDS: dict[str, Backend] = {
    row.name: row
    for row in (
        Backend(
            AUTOMATIC, _automatic, _automatic_with_lse, _automatic_with_lengths, is_measured=False
        ),
        Backend(DEFAULT, pytorch.sdpa, pytorch.sdpa_with_lse),
        Backend(
            "cudnn",
            pytorch.cudnn,
            pytorch.cudnn_with_lse,
            devices=GPU,
            dtypes=SIXTEEN_BITS,
            padding_with_lse=(),
            widths=range(8, 129, 8),
            least_tokens=2,
            refusals=("cuDNN",),
        ),
        Backend(
            "flash",
            pytorch.flash,
            pytorch.flash_with_lse,
            pytorch.flash_with_lengths,
            padding=CPU,
            padding_with_lse=CPU,
            lengths=GPU,
            refusals=("FlashAttention", "flash_attention", "head_size"),
        ),
        Backend(
            "efficient",
            pytorch.efficient,
            pytorch.efficient_with_lse,
            devices=GPU,
            refusals=("cutlassF", "not correctly aligned"),
        ),
        Backend(
            "native",
            native.attend,
            devices=CPU,
            dtypes=(torch.float32, torch.bfloat16),
            missing=native.missing,
            is_measured=False,
        ),
        # It keeps all scores: no contender, and no room for them at 64,000 tokens.
        Backend("math", pytorch.math, pytorch.math_with_lse, is_measured=False),
        _packaged("fa2", FA2, "flash-attn"),
        _packaged("fa3", FA3, "fa3-fwd"),
        _packaged("fa4", FA4, "flash-attn-4"),
        *(_in_fp8(name, kernel) for name, kernel in FP8_KERNELS.items()),
        *(_lossy(name, kernel) for name, kernel in packages.KERNELS.items()),
    )
}


def get_backend(name: str) -> Backend:
    """The backend called `name`; ValueError lists the known names, or says what to install."""
    if name not in BACKENDS:
        raise ValueError(f"attention backend must be one of {sorted(BACKENDS)}, got {name!r}")
    cause = BACKENDS[name].missing()
    if cause is not None:
        install = BACKENDS[name].pip or BACKENDS[name].install
        way = "choose sdpa" if install is None else f"pip install {install}"
        raise ValueError(f"attention backend {name} is not here ({cause}): {way}")
    return BACKENDS[name]


def automatic(
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    has_padding: bool = False,
    with_lse: bool = False,
    tokens: int = MANY,
) -> str:
    """The backend that "auto" stands for, for heads of `width` and at least so many `tokens`.

    On a GPU the fastest one that is here and was measured by `disca-rt tune`, which does so in 16
    bits without padding; on a CPU native for narrow heads; sdpa under all other conditions, and
    where nothing was measured.
    """
    if device.type == "cpu":
        return "native" if _is_native_fastest(width, dtype) and not with_lse else DEFAULT
    if dtype not in SIXTEEN_BITS or has_padding:
        return DEFAULT
    for name in measured_order(width, table_name(device)):
        row = BACKENDS[name]
        is_able = tokens >= row.least_tokens and (row.attend_with_lse or not with_lse)
        if is_able and row.missing() is None:
            return name
    return DEFAULT


@cache
def _is_native_fastest(width: int, dtype: torch.dtype) -> bool:
    row = BACKENDS["native"]
    return width <= native.WIDEST and row.takes("cpu", dtype) and row.missing() is None


def settled(name: str, width: int, dtype: torch.dtype, device: torch.device) -> str:
    """Name of the backend that `name` stands for: "auto" for another, the rest for themselves."""
    return automatic(width, dtype, device) if name == AUTOMATIC else name


SECTION = "attention"
"""The part of the launch table that has, by device and head width, backends, fastest first."""


@remembered
def measured_order(width: int, device: str) -> tuple[str, ...]:
    """Backends by their speed on `device`, the fastest first; empty where none was measured."""
    return read_orders().get(device, {}).get(str(width), ())


def read_orders(path: Path | None = None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Backends by device and head width, the fastest first; ValueError names what is wrong."""
    path = path or table_path()
    known = [name for name, row in BACKENDS.items() if row.is_measured]
    orders: dict[str, dict[str, tuple[str, ...]]] = {}
    for device, by_width in read_section(SECTION, path).items():
        for width, names in items(path, f"{device}, {SECTION}", by_width):
            if not isinstance(names, list) or not names or not set(names) <= set(known):
                raise ValueError(
                    f"{path}: {device}, {SECTION}, {width}: must be some of {known}, got "
                    f"{names!r}; remove it"
                )
            orders.setdefault(device, {})[width] = tuple(names)
    return orders
