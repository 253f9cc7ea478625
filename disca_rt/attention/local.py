"""Attention where all tokens and all heads are on one rank: nothing to move or to overlap."""

import torch
from torch import Tensor

from ..sharding import Whole
from ..tokens import TokenLayout
from .backends import Backend, get_backend
from .padding import attend, inputs_of, padding_of
from .protocol import Instead, Overlap


class LocalAttention:
    """Attention by the backend called `name`; ValueError lists the known ones."""

    def __init__(self, name: str = "sdpa") -> None:
        self.name, self.backend = name, get_backend(name)
        self.sharding = Whole()

    @property
    def local(self) -> "LocalAttention":
        return self

    def prepare(self, heads: int) -> None:
        """Do nothing: all heads are here."""

    def takes_lengths(self, width: int, dtype: torch.dtype, device: torch.device) -> bool:
        return self.backend.takes_lengths(width, dtype, device)

    def begin(self, layout: TokenLayout, instead: Instead | None = None) -> "LocalHandle":
        return LocalHandle(self.backend, layout, instead or self.backend.instead)


class LocalHandle:
    """The three tensors of one attention; `result` calls the backend, or `instead`."""

    packing = None

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
