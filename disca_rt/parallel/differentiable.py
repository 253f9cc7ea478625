"""A scheduler whose exchanges have a gradient: what went one way comes back the other.

The backward of what leaves is what arrives and the reverse, so gradients overlap with the backward
of the layer just as activations do with its forward: they leave where activations arrived, and are
awaited where those left. The scheduler reuses no buffers and is this attention's own: under
checkpointing, forward is run again amid the backward, and may end before it has received all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ._native import Partition, Scheduler, Slot


class DifferentiableScheduler:
    """A `Scheduler` with the same methods, differentiable, for one attention."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tickets: dict[Slot, Tensor] = {}
        self._back: list[Tensor] = []
        self._passed: dict[Slot, tuple[Tensor, int]] = {}

    @property
    def partition(self) -> Partition:
        return self._scheduler.partition

    # Transfers hold the scheduler and not `self`, whose tickets hold the transfers.
    def send(self, slot: Slot, tokens: Tensor) -> None:
        scheduler = self._scheduler
        self._tickets[slot] = _Exchange.apply(
            partial(scheduler.send, slot), lambda _: scheduler.receive_back(slot), tokens
        )

    def receive(self, slot: Slot, chunk: int) -> Tensor:
        scheduler, ticket = self._scheduler, self._tickets[slot]
        return _Exchange.apply(
            lambda _: scheduler.receive(slot, chunk),
            partial(scheduler.send_back, slot, chunk),
            ticket,
        )

    def send_back(self, slot: Slot, chunk: int, heads: Tensor) -> None:
        scheduler = self._scheduler
        ticket = _Exchange.apply(
            partial(scheduler.send_back, slot, chunk),
            lambda _: scheduler.receive(slot, chunk),
            heads,
        )
        self._back.append(ticket)

    def receive_back(self, slot: Slot) -> Tensor:
        scheduler = self._scheduler
        return _Exchange.apply(
            lambda *_: scheduler.receive_back(slot), partial(scheduler.send, slot), *self._back
        )

    def pass_on(self, slot: Slot, chunk: int, origin: int, heads: Tensor) -> None:
        scheduler = self._scheduler
        ticket = _Exchange.apply(
            partial(scheduler.pass_on, slot, chunk, origin),
            lambda _: scheduler.receive_passed(slot, chunk),
            heads,
        )
        self._passed[slot] = ticket, (origin - 1) % self.partition.ring_degree

    def receive_passed(self, slot: Slot, chunk: int) -> Tensor:
        scheduler, (ticket, origin) = self._scheduler, self._passed[slot]
        return _Exchange.apply(
            lambda _: scheduler.receive_passed(slot, chunk),
            partial(scheduler.pass_on, slot, chunk, origin, back=True),
            ticket,
        )


Transfer = Callable[..., Tensor | None]
"""Hands tensors to the scheduler and returns None, or returns those that arrived."""


class _Exchange(Function):
    """One transfer, and in the backward the one the other way.

    What is under way is in the scheduler. A ticket, an empty tensor, is what ties the graph of what
    left to that of what arrived, both ways: a transfer that returns nothing gives one.
    """

    @staticmethod
    def forward(ctx: Any, transfer: Transfer, back: Transfer, *inputs: Tensor) -> Tensor:
        ctx.back, ctx.inputs = back, len(inputs)
        return _or_ticket(transfer(*inputs), inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *[_or_ticket(ctx.back(grad), grad)] * ctx.inputs


def _or_ticket(arrived: Tensor | None, like: Tensor) -> Tensor:
    return like.new_zeros(()) if arrived is None else arrived
