"""Parts of a pipeline that are loaded when they are first used, and freed when their stage ends.

Knows no models: a part is a module, or what has some, or whatever its loader gives.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..instruments.stopwatch import Stopwatch

T = TypeVar("T")


class Held(Generic[T]):
    """A part, or the way to it: `load` is called at its first use and again after each `free`.

    With `is_kept` it stays once it is loaded, so that stages no longer wait for files, at the price
    of the memory of all parts together.
    """

    def __init__(self, load: Callable[[], T], is_kept: bool = False) -> None:
        self._load, self.is_kept = load, is_kept
        self._part: T | None = None

    @property
    def loaded(self) -> T | None:
        """The part if it is in memory, else None."""
        return self._part

    def get(self) -> T:
        """Give the part, loaded if it was not."""
        if self._part is None:
            self._part = self._load()
        return self._part

    @contextmanager
    def used(self) -> Iterator[T]:
        """Give the part while the context lasts, and free it then unless it is kept."""
        try:
            yield self.get()
        finally:
            if not self.is_kept:
                self.free()

    def free(self) -> None:
        """Let go of the part, with the memory it took on its device."""
        if self._part is None:
            return
        weights = list(_weights(self._part))
        self._part = None
        if any(weight() is not None for weight in weights):
            gc.collect()  # 0.3 s with the libraries' objects: only where modules form a circle
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _weights(part: object) -> Iterator[weakref.ref]:
    """References to the weights of a part, be it a module or something that has modules."""
    owned = [part] if isinstance(part, nn.Module) else getattr(part, "__dict__", {}).values()
    for module in (each for each in owned if isinstance(each, nn.Module)):
        yield from map(weakref.ref, module.parameters())
        yield from map(weakref.ref, module.buffers())


class Present(Held[T]):
    """Part that is always in memory; `Present(None)` is one that this pipeline lacks."""

    def __init__(self, part: T) -> None:
        super().__init__(lambda: part, is_kept=True)
        self._part = part


def held(part: T | Held[T]) -> Held[T]:
    """Hold a part; a `Held` one stays as it is."""
    return part if isinstance(part, Held) else Present(part)


def is_absent(part: Held) -> bool:
    """Tell whether there is no such part, neither loaded nor to be loaded."""
    return isinstance(part, Present) and part.loaded is None


@contextmanager
def loaded(stopwatch: Stopwatch, *parts: Held) -> Iterator[None]:
    """Have `parts` in memory while the context lasts; what is loaded is timed as "loading"."""
    with ExitStack() as stack:
        lacks = [part for part in parts if part.loaded is None and not is_absent(part)]
        with stopwatch.stage("loading") if lacks else nullcontext():
            for part in parts:
                stack.enter_context(part.used())
        yield


@contextmanager
def kept(*parts: Held) -> Iterator[None]:
    """Keep `parts` in memory, once they are loaded, while the context lasts."""
    were_kept = [part.is_kept for part in parts]
    for part in parts:
        part.is_kept = True
    try:
        yield
    finally:
        for part, was_kept in zip(parts, were_kept, strict=True):
            part.is_kept = was_kept
            if not was_kept:
                part.free()


class Part(Generic[T]):
    """Attribute of a pipeline that is a `Held` part: read, it is the part itself."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, pipeline: Any, owner: type) -> T:
        return self if pipeline is None else getattr(pipeline, self._name).get()

    def __set__(self, pipeline: Any, part: T | Held[T]) -> None:
        setattr(pipeline, self._name, held(part))

    def __delete__(self, pipeline: Any) -> None:
        delattr(pipeline, self._name)
