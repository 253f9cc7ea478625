"""The work of a call: floating-point operations, and the fewest bytes it can move."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Work(NamedTuple):
    """`flops` are those of matrix products, as everywhere in this project.

    `minimum_bytes`: inputs once and outputs once. `pointwise` counts the other operations, as the
    reference writes them; they only give an op without products its place on a roofline.
    """

    flops: int = 0
    minimum_bytes: int = 0
    pointwise: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def intensity(self) -> float | None:
        """Operations per byte; None where either is not known."""
        operations = self.flops or self.pointwise
        return operations / self.minimum_bytes if operations and self.minimum_bytes else None


def tensor_bytes(*tensors: Tensor | None) -> int:
    return sum(each.numel() * each.element_size() for each in tensors if each is not None)


def passes(count: int, operations: int) -> Callable[..., Work]:
    """Work of `count` reads or writes of the first argument, and `operations` on each value."""
    return lambda x, *others: Work(0, count * tensor_bytes(x), operations * x.numel())


def nothing(*args: Any) -> Work:
    """No work: that of an op around a matrix product is counted with the product."""
    return Work()
