"""A callable captured in segments, with the work between them that no capture can hold.

Knows how a segment begins and ends by what it is given: on a GPU a CUDA graph.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .between import interrupted_by


class Replayable(Protocol):
    """Captured work: `replay` does it again on the same memory."""

    def replay(self) -> None: ...


Begin = Callable[[], Callable[[], Replayable]]
"""Starts a capture, and returns what ends it."""


@dataclass
class Segments:
    """Pieces in order."""

    pieces: list[Replayable]

    def replay(self) -> None:
        for piece in self.pieces:
            piece.replay()


@dataclass
class Between:
    """Work done between two segments; the next one reads its `result`."""

    run: Callable[..., Any]
    args: tuple[Any, ...]
    result: Any

    def replay(self) -> None:
        again = self.run(*self.args)
        for old, new in zip(*map(pytree.tree_leaves, (self.result, again)), strict=True):
            if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                old.copy_(new)


def in_segments(begin: Begin, compute: Callable[[], object]) -> Replayable:
    """Captures `compute` in pieces; what it does between graphs is done now, on what is there."""
    pieces: list[Replayable] = []
    end = begin()

    def interrupt(run: Callable[..., Any], *args: Any) -> Any:
        nonlocal end
        pieces.append(end())
        result = run(*args)
        pieces.append(Between(run, pytree.tree_map(_alias, args), result))
        end = begin()
        return result

    try:
        with interrupted_by(interrupt):
            compute()
    except BaseException:
        _abandon(end)
        raise
    pieces.append(end())
    return pieces[0] if len(pieces) == 1 else Segments(pieces)


def _abandon(end: Callable[[], Replayable]) -> None:
    """End a capture in which an error was raised; its end would be another error."""
    with suppress(RuntimeError):
        end()


def _alias(value: Any) -> Any:
    """A tensor at the same place of a GPU that does not own it: the memory may be used again.

    The memory is the pool's, and is not given back while a graph of it lives; 60 blocks would
    otherwise each have theirs.
    """
    if not isinstance(value, Tensor) or value.device.type != "cuda" or value.numel() == 0:
        return value
    storage = value.untyped_storage()
    span = _Memory(storage.data_ptr(), storage.nbytes())
    bytes_there = torch.as_tensor(span, device=value.device)
    flat = bytes_there[: storage.nbytes() // value.itemsize * value.itemsize].view(value.dtype)
    return flat.as_strided(value.shape, value.stride(), value.storage_offset())


class _Memory:
    """Bytes on a GPU, by the interface with which libraries hand each other arrays."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }
