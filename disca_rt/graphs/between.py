"""Work that no capture can hold, such as an exchange between ranks: it is done between captures.

Who does such work says so here and knows of no capture; who captures is told, and does the work
again, in its place, at each replay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Outside = Callable[..., Any]
"""Called as `outside(run, *args)`: ends a capture, returns `run(*args)`, begins the next one."""

_capturing: ContextVar[Outside | None] = ContextVar("capturing", default=None)


def apart(run: Callable[..., Any], *args: Any) -> Any:
    """`run(*args)`, outside the capture under way, if one is.

    Tensors that `run` reads must be among `args`, themselves, and what it returns is a tree of
    tensors, good until it is done again.
    """
    outside = _capturing.get()
    return run(*args) if outside is None else outside(run, *args)


@contextmanager
def taken_apart(outside: Outside) -> Iterator[None]:
    """Within, on this thread, `outside` is told of what is to be apart."""
    token = _capturing.set(outside)
    try:
        yield
    finally:
        _capturing.reset(token)
