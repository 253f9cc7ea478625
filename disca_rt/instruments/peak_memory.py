"""Peak memory of some work on any device: bytes of tensors that are alive at once.

On a GPU the allocator counts; elsewhere every storage that an operator returns is counted until it
is freed. Knows nothing about what the tensors are.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class PeakMemory:
    """Context whose `peak` is, at its end, the largest number of bytes allocated within it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._storages = None if device.type == "cuda" else _StorageCount()
        self.peak = 0

    def __enter__(self) -> "PeakMemory":
        if self._storages is None:
            self._before = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._storages.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._storages is None:
            self.peak = torch.cuda.max_memory_allocated(self._device) - self._before
        else:
            self._storages.__exit__(*exception)
            self.peak = self._storages.peak


class _StorageCount(TorchDispatchMode):
    """Sum of the storages that operators make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._known: dict[int, int] = {}  # bytes by the storage's address

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = {_address(tensor) for tensor in _tensors((*args, *kwargs.values()))}
        out = func(*args, **kwargs)
        for tensor in _tensors((out,)):
            if _address(tensor) not in given:
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = _address(tensor), storage.nbytes()
        if address in self._known or size == 0:
            return
        self._known[address] = size
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._remove, address)

    def _remove(self, address: int) -> None:
        self._alive -= self._known.pop(address, 0)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among an operator's arguments or results, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
