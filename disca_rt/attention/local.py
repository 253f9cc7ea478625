"""Attention where all tokens and all heads are on one rank: nothing to move or to overlap."""

import torch
from torch import Tensor

from ..sharding import Whole
from ..tokens import TokenLayout
from .backends import Backend, get_backend
from .protocol import Overlap


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

    def begin(self, layout: TokenLayout) -> "LocalHandle":
        return LocalHandle(self.backend, layout.lengths)


class LocalHandle:
    """The three tensors of one attention; `result` calls the backend."""

    packing = None

    def __init__(self, backend: Backend, lengths: Tensor | None) -> None:
        self._backend, self._lengths = backend, lengths

    def put_v(self, v: Tensor) -> None:
        self._v = v

    def put_k(self, k: Tensor) -> None:
        self._k = k

    def put_q(self, q: Tensor) -> None:
        self._q = q

    def result(self, overlap: Overlap) -> Tensor:
        valid = None
        if self._lengths is not None:
            places = torch.arange(self._k.shape[1], device=self._k.device)
            valid = places < self._lengths[:, None]
        return self._backend(self._q, self._k, self._v, valid).flatten(2)
