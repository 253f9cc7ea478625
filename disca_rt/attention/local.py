"""Attention where all tokens and all heads are on one rank: nothing to move or to overlap."""

import torch
from torch import Tensor

from ..sharding import Whole
from ..tokens import TokenLayout
from .backends import Backend, get_backend
from .protocol import AttentionInputs, Instead, Overlap


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
        valid, lengths = None, self._layout.lengths
        if lengths is not None:
            places = torch.arange(self._k.shape[1], device=self._k.device)
            valid = places < lengths[:, None]
        if self._instead is None:
            return self._backend(self._q, self._k, self._v, valid).flatten(2)
        tensors = self._q, self._k, self._v, valid
        return self._instead(AttentionInputs(*tensors, self._layout, self._backend)).flatten(2)
