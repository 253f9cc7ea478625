"""Work that no graph can hold, such as an exchange between ranks: it is done between graphs.

Who does such work says so here and knows of no capture; who captures is told, and does the work
again, in its place, at each replay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Interrupt = Callable[..., Any]
"""Called as `interrupt(run, *args)`: ends a capture, returns `run(*args)`, begins the next one."""

_capturing: ContextVar[Interrupt | None] = ContextVar("capturing", default=None)


def between_graphs(run: Callable[..., Any], *args: Any) -> Any:
    """`run(*args)`, outside of the capture under way, if there is one.

    Tensors that `run` reads must be among `args`, themselves, and what it returns is a tree of
    tensors, good until it is done again.
    """
    interrupt = _capturing.get()
    return run(*args) if interrupt is None else interrupt(run, *args)


@contextmanager
def interrupted_by(interrupt: Interrupt) -> Iterator[None]:
    """Hands what is to be done between graphs to `interrupt`, on this thread, while it is open."""
    token = _capturing.set(interrupt)
    try:
        yield
    finally:
        _capturing.reset(token)
