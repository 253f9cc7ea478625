"""Number of operators that some work dispatches: the host's work, whatever neighbours do.

Knows nothing about what the operators compute.
"""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class OperatorCount(TorchDispatchMode):
    """Context whose `count` is the number of operators that would launch something: no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += not func.is_view
        return out
