"""Ranges around the seams of a runtime: its ops, attention, blocks, policy and steps.

What a model is given when it is built is wrapped, blocks are hooked from outside: no model, cache
or engine code knows of it, and not one bit of a result changes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn

from ..attention.local import LocalAttention
from ..cache.policy import CachePolicy, StepKind
from ..kernels.ops import Ops
from ..models.blocks import DoubleStreamBlock, SingleStreamBlock
from ..models.token_refiner import RefinerBlock
from ..pipeline.runtime import Runtime
from ..sampling.engine import StepEvent
from ..schedule import Step
from ..tokens import StepContext
from .ranges import Ranges
from .work import OPS, OperatorWork, attention_work

OnStep = Callable[[StepEvent], None]
BLOCKS = DoubleStreamBlock, SingleStreamBlock, RefinerBlock


def marked_ops(ops: Ops, ranges: Ranges) -> Ops:
    """Ops that run in ranges of their names; those that do no work stay as they are."""
    return Ops(
        *(
            _marked(name, op, OPS[name], ranges) if name in OPS else op
            for name, op in ops._asdict().items()
        )
    )


def marked_attention(backend: str, ranges: Ranges) -> LocalAttention:
    """Local attention whose `backend` runs in ranges called attention."""
    attention = LocalAttention(backend)
    attention.backend = _marked("attention", attention.backend, attention_work, ranges)
    return attention


def _marked(
    name: str, run: Callable[..., Any], work: Callable[..., OperatorWork], ranges: Ranges
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
    """Context in which every block of both models runs in a range of its checkpoint name."""
    hooks = []
    for prefix, model in (("", runtime.dit), ("predictor.", runtime.predictor)):
        for name, module in [] if model is None else model.named_modules():
            if isinstance(module, BLOCKS):
                before, after = _hooks(f"block {prefix}{name}", ranges)
                hooks.append(module.register_forward_pre_hook(before))
                hooks.append(module.register_forward_hook(after))
    try:
        yield
    finally:
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


class MarkedPolicy:
    """`policy` for one sample, in ranges; its `on_step` has to be given to the engine.

    The first step begins when the state is reset, each other one after the one before it and
    `between` have ended. `kinds` says what the steps turned out to be.
    """

    def __init__(
        self, policy: CachePolicy, ranges: Ranges, between: OnStep = lambda event: None
    ) -> None:
        self.name, self.schedule_known = policy.name, policy.schedule_known
        self.allocate, self.cache_bytes = policy.allocate, policy.cache_bytes
        self.variant = policy.variant
        self.kinds: list[StepKind] = []
        self._policy, self._ranges, self._between = policy, ranges, between
        self._is_in_step = False

    def reset(self, state: Any) -> None:
        self._policy.reset(state)
        if not self._is_in_step:  # the second pass of classifier-free guidance has a state too
            self._begin(0)

    def decide(self, step: Step, tokens: Tensor | None, state: Any) -> StepKind:
        return self._policy.decide(step, tokens, state)

    def run(
        self,
        kind: StepKind,
        tokens: Tensor,
        context: StepContext,
        blocks: Sequence[nn.Module],
        state: Any,
    ) -> Tensor:
        with self._ranges.range(f"middle {kind}"):
            return self._policy.run(kind, tokens, context, blocks, state)

    def on_step(self, event: StepEvent) -> None:
        self._ranges.pop()
        self._is_in_step = False
        self.kinds.append(event.kind)
        self._between(event)
        if event.step.index + 1 < event.steps:
            self._begin(event.step.index + 1)

    def _begin(self, index: int) -> None:
        self._is_in_step = True
        self._ranges.push(f"step {index}")
