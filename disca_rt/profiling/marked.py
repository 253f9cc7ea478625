"""Ranges around the seams of a runtime: its ops, attention, blocks, policy and steps.

What a model is given when it is built is wrapped, blocks are hooked from outside: no model, cache
or engine code knows of it, and not one bit of a result changes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from ..attention.local import LocalAttention
from ..instruments.stopwatch import Stopwatch
from ..kernels.ops import Ops
from ..models.blocks import DoubleStreamBlock, SingleStreamBlock
from ..models.token_refiner import RefinerBlock
from ..pipeline.runtime import Runtime
from ..sampling.loop import StepEvent
from .ranges import Ranges
from .work import OPS, Work, attention_work

OnStep = Callable[[StepEvent], None]
T = TypeVar("T")
BLOCKS = DoubleStreamBlock, SingleStreamBlock, RefinerBlock


class MarkedStopwatch(Stopwatch):
    """Stopwatch whose stages run in ranges of their names, the outermost of those within others."""

    def __init__(self, ranges: Ranges, device: torch.device) -> None:
        super().__init__(device)
        self._ranges, self._is_inside = ranges, False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the enclosed work under `name`."""
        with self._range(name), super().stage(name):
            yield

    def timed(self, name: str, pieces: Iterable[T]) -> Iterator[T]:
        """Give out `pieces`, whose making, and whatever is done with them, is in one range."""
        with self._range(name):
            yield from super().timed(name, pieces)

    @contextmanager
    def _range(self, name: str) -> Iterator[None]:
        if self._is_inside:
            yield
            return
        self._is_inside = True
        try:
            with self._ranges.range(f"stage {name}"):
                yield
        finally:
            self._is_inside = False


def marked_ops(ops: Ops, ranges: Ranges) -> Ops:
    """Ops that run in ranges of their names; those that do no work stay as they are."""
    return Ops(
        **{
            name: _marked(name, op, OPS[name], ranges) if name in OPS else op
            for name, op in vars(ops).items()
        }
    )


def marked_attention(backend: str, ranges: Ranges) -> LocalAttention:
    """Local attention whose `backend` runs in ranges called attention."""
    attention = LocalAttention(backend)
    row = attention.backend
    ways = {"attend": row.attend, "attend_with_lengths": row.attend_with_lengths}
    marked = {
        name: _marked("attention", way, attention_work, ranges)
        for name, way in ways.items()
        if way is not None
    }
    attention.backend = replace(row, **marked)
    return attention


def _marked(
    name: str, run: Callable[..., Any], work: Callable[..., Work], ranges: Ranges
) -> Callable[..., Any]:
    @wraps(run)
    def marked(*args: Any, **kwargs: Any) -> Any:
        if not ranges.is_recording:
            return run(*args, **kwargs)
        ranges.works.append(work(*args))
        with ranges.range(f"op {name}"):
            return run(*args, **kwargs)

    return marked


@contextmanager
def marked_blocks(runtime: Runtime, ranges: Ranges) -> Iterator[None]:
    """Context in which steps, their middles, and all blocks of both models run in ranges.

    A block's range has its name in the checkpoint.
    """
    hooks = []
    denoiser = runtime.denoiser
    for prefix, model in (("", runtime.dit), ("predictor.", runtime.predictor)):
        for name, module in [] if model is None else model.named_modules():
            if isinstance(module, BLOCKS):
                before, after = _hooks(f"block {prefix}{name}", ranges)
                hooks.append(module.register_forward_pre_hook(before))
                hooks.append(module.register_forward_hook(after))
    mark, denoiser.mark = denoiser.mark, ranges.range
    try:
        yield
    finally:
        denoiser.mark = mark
        for hook in hooks:
            hook.remove()


def _hooks(
    name: str, ranges: Ranges
) -> tuple[Callable[[nn.Module, Any], None], Callable[[nn.Module, Any, Any], None]]:
    def before(block: nn.Module, args: Any) -> None:
        ranges.push(name)

    def after(block: nn.Module, args: Any, result: Any) -> None:
        ranges.pop()

    return before, after
