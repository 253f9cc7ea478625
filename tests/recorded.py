"""A stand-in for CUDA graphs on a CPU: notes down aten calls, and makes them again in place.

As with a graph no Python runs at a replay, addresses are those of the capture, and capturing leaves
every buffer as it was. It sees PyTorch's operators: what is compared with a replay to the bit runs
by ops "reference" too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from disca_rt.graphs.segments import Replayable, in_segments


class Recorded(TorchDispatchMode):
    """`replay` writes every result where it was when it was recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []
        self._made: set[int] = set()  # storages of results
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # buffers that were there, and a copy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write and isinstance(value, Tensor):
                self._save(value)
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        given = _storages((args, kwargs))
        self._made |= _storages(result) - (given - self._made)  # a view of a buffer is not new
        return result

    def _save(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if storage not in self._made and storage not in self._before:
            whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
            self._before[storage] = whole, whole.clone()

    def restore(self) -> None:
        for buffer, before in self._before.values():
            buffer.copy_(before)

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            before, now = (pytree.tree_leaves(each) for each in (result, again))
            for old, new in zip(before, now, strict=True):
                if _is_tensor(old) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _storages(tree: Any) -> set[int]:
    return {_storage(each) for each in pytree.tree_leaves(tree) if _is_tensor(each)}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def record(compute: Callable[[], object]) -> Replayable:
    """A `Capture`."""
    return in_segments(_begin, compute)


def _begin() -> Callable[[], Recorded]:
    recorded = Recorded()
    recorded.__enter__()

    def end() -> Recorded:
        recorded.__exit__(None, None, None)
        recorded.restore()
        return recorded

    return end
