"""Attention where all tokens and all heads are on one rank: nothing to move or to overlap."""

from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from ..sharding import Whole
from ..tokens import TokenLayout
from .backends import Attend, Backend, get_backend
from .padding import attend, inputs_of, padding_of
from .protocol import Instead, Overlap


class OfSample(Protocol):
    """Keeper of something of one sample, which `forget` ends."""

    def forget(self) -> None: ...


class LocalAttention:
    """Attention by the backend called `name`; ValueError lists the known ones."""

    def __init__(self, name: str = "sdpa") -> None:
        self.name, self.backend = name, get_backend(name)
        self.sharding = Whole()
        self._of_samples: WeakSet[OfSample] = WeakSet()

    @property
    def local(self) -> "LocalAttention":
        return self

    def tell(self, each: OfSample) -> None:
        """Have `each` told when a sample begins, as long as it lives."""
        self._of_samples.add(each)

    def begin_sample(self) -> None:
        """Have all that is kept for one sample forgotten, before the next one begins."""
        for each in self._of_samples:
            each.forget()

    def prepare(self, heads: int) -> None:
        """Do nothing: all heads are here."""

    def takes_lengths(self, width: int, dtype: torch.dtype, device: torch.device) -> bool:
        return self.backend.takes_lengths(width, dtype, device)

    def begin(self, layout: TokenLayout, instead: Instead | None = None) -> "LocalHandle":
        return LocalHandle(self.backend, layout, instead or self.backend.instead)


class LocalHandle:
    """The three tensors of one attention; `result` calls the backend, or `instead`."""

    packing = q_scale = k_scale = None

    def __init__(self, backend: Backend, layout: TokenLayout, instead: Instead | None) -> None:
        self._backend, self._layout, self._instead = backend, layout, instead

    def put_v(self, v: Tensor) -> None:
        self._v = v

    def put_k(self, k: Tensor) -> None:
        self._k = k

    def put_q(self, q: Tensor) -> None:
        self._q = q

    def result(self, overlap: Overlap) -> Tensor:
        layout = self._layout
        given = self._backend, self._q, self._k, self._v
        at = None if layout.lengths is None else padding_of(layout)
        if self._instead is not None:
            return self._instead(inputs_of(*given, at, layout)).flatten(2)
        out = self._backend(*given[1:], None) if at is None else attend(*given, at)
        return out.flatten(2)

    def by(self, backend: Attend) -> Tensor:
        """The result with `backend`, which takes a mask of padding, in place of the own one."""
        lengths = self._layout.lengths
        valid = None if lengths is None else padding_of(self._layout).mask(self._k.shape[1])
        return backend(self._q, self._k, self._v, valid).flatten(2)
