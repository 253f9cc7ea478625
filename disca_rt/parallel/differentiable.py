"""A scheduler whose exchanges have a gradient: what went one way comes back the other.

The backward of what leaves is what arrives and the reverse, so gradients overlap with the backward
of the layer just as activations do with its forward: they leave where activations arrived, and are
awaited where those left. The scheduler reuses no buffers and is this attention's own: under
checkpointing, forward is run again amid the backward, and may end before it has received all.
"""

from typing import Any

from torch import Tensor
from torch.autograd import Function

from ._native import Plan, Scheduler, Slot


class DifferentiableScheduler:
    """A `Scheduler` with the same methods, differentiable, for one attention."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tickets: dict[Slot, Tensor] = {}
        self._back: list[Tensor] = []
        self._passed: dict[Slot, tuple[Tensor, int]] = {}

    @property
    def plan(self) -> Plan:
        return self._scheduler.plan

    def send(self, slot: Slot, tokens: Tensor) -> None:
        self._tickets[slot] = _Send.apply(tokens, self._scheduler, slot)

    def receive(self, slot: Slot, chunk: int) -> Tensor:
        return _Receive.apply(self._tickets[slot], self._scheduler, slot, chunk)

    def send_back(self, slot: Slot, chunk: int, heads: Tensor) -> None:
        self._back.append(_SendBack.apply(heads, self._scheduler, slot, chunk))

    def receive_back(self, slot: Slot) -> Tensor:
        return _ReceiveBack.apply(self._scheduler, slot, *self._back)

    def pass_on(self, slot: Slot, chunk: int, origin: int, heads: Tensor) -> None:
        ticket = _PassOn.apply(heads, self._scheduler, slot, chunk, origin)
        self._passed[slot] = ticket, (origin - 1) % self.plan.ring_degree

    def receive_passed(self, slot: Slot, chunk: int) -> Tensor:
        ticket, origin = self._passed[slot]
        return _ReceivePassed.apply(ticket, self._scheduler, slot, chunk, origin)


# What is under way is in the scheduler. A ticket, an empty tensor, is what ties the graph of what
# left to that of what arrived, both ways.
def _ticket(like: Tensor) -> Tensor:
    return like.new_zeros(())


class _Send(Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, scheduler: Scheduler, slot: Slot) -> Tensor:
        ctx.at = scheduler, slot
        scheduler.send(slot, tokens)
        return _ticket(tokens)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        scheduler, slot = ctx.at
        return scheduler.receive_back(slot), None, None


class _Receive(Function):
    @staticmethod
    def forward(ctx: Any, _: Tensor, scheduler: Scheduler, slot: Slot, chunk: int) -> Tensor:
        ctx.at = scheduler, slot, chunk
        return scheduler.receive(slot, chunk)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scheduler, slot, chunk = ctx.at
        scheduler.send_back(slot, chunk, grad)
        return _ticket(grad), None, None, None


class _SendBack(Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, scheduler: Scheduler, slot: Slot, chunk: int) -> Tensor:
        ctx.at = scheduler, slot, chunk
        scheduler.send_back(slot, chunk, heads)
        return _ticket(heads)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        scheduler, slot, chunk = ctx.at
        return scheduler.receive(slot, chunk), None, None, None


class _ReceiveBack(Function):
    @staticmethod
    def forward(ctx: Any, scheduler: Scheduler, slot: Slot, *tickets: Tensor) -> Tensor:
        ctx.at = scheduler, slot, len(tickets)
        return scheduler.receive_back(slot)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scheduler, slot, chunks = ctx.at
        scheduler.send(slot, grad)
        return None, None, *(_ticket(grad) for _ in range(chunks))


class _PassOn(Function):
    @staticmethod
    def forward(
        ctx: Any, heads: Tensor, scheduler: Scheduler, slot: Slot, chunk: int, origin: int
    ) -> Tensor:
        ctx.at = scheduler, slot, chunk
        scheduler.pass_on(slot, chunk, origin, heads)
        return _ticket(heads)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        scheduler, slot, chunk = ctx.at
        return scheduler.receive_passed(slot, chunk), None, None, None, None


class _ReceivePassed(Function):
    @staticmethod
    def forward(
        ctx: Any, _: Tensor, scheduler: Scheduler, slot: Slot, chunk: int, origin: int
    ) -> Tensor:
        ctx.at = scheduler, slot, chunk, origin
        return scheduler.receive_passed(slot, chunk)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scheduler, slot, chunk, origin = ctx.at
        scheduler.pass_on(slot, chunk, origin, grad, back=True)
        return _ticket(grad), None, None, None, None
