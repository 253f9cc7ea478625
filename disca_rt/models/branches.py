"""Between a block and what may stand in for its branches: the protocol, and shared results."""

from collections.abc import Callable, Set
from typing import Protocol, TypeVar

from torch import Tensor

from ..attention.protocol import Attention
from ..tokens import Vector
from .stream import Branch

T = TypeVar("T")

PARTS = "attn_part", "mlp_part"
"""Branches of a single-stream block that are halves of its product."""

Compute = Callable[..., Tensor]
"""Computes a branch; `out`, where it takes one, is a preferred destination, may be ignored.

That of an MLP may be given `rows [B, R]`, and then computes the rows that these number.
"""


class Branches(Protocol):
    """Stands between a block and its branches, the tensors before their gates."""

    names: Set[str]  # the branches that it changes anything of

    def around(self, attention: Attention) -> Attention:
        """The attention that the block is to use in place of its own, or that itself."""

    def __call__(self, name: str, compute: Compute, gate: Vector | None = None) -> Branch:
        """The branch `name`: `compute()` and `gate`, or something in the place of either.

        Where the value has another in its place, `compute` never runs.
        """


def once(compute: Callable[[], T]) -> Callable[[], T]:
    """`compute`, run at the first call only. torch.compile would see through `functools.cache`."""
    results: list[T] = []

    def first_result() -> T:
        if not results:
            results.append(compute())
        return results[0]

    return first_result
