"""What the kernels are launched with at the real models' shapes, recorded without a device.

Arguments are meta tensors; a launch is recorded where Triton would have run it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from disca_rt.kernels.registration import RegisteredOp
from disca_rt.kernels.workload import REAL, calls, implementation


@dataclass(frozen=True)
class Launch:
    """One call of a Triton kernel: `kernel` is a JITFunction, `options` num_warps and constants."""

    op: str
    shapes: str
    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def recorded(names: tuple[str, ...] = tuple(REAL)) -> Iterator[Launch]:
    """Every launch of every op at the shapes called `names`."""
    for name in names:
        for op, make_call in calls(REAL[name], _on_meta).items():
            run = implementation(op)
            launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

            def record(kernel: Any, *arguments: Any, into: list = launches, **options: Any) -> None:
                kept = {k: v for k, v in options.items() if k not in ("grid", "warmup")}
                into.append((kernel, arguments, kept))

            with (
                patch.object(JITFunction, "run", record),
                patch.object(RegisteredOp, "__call__", _run_launcher),
            ):
                run(*make_call().args)
            for kernel, arguments, options in launches:
                yield Launch(op, name, kernel, arguments, options)


def _on_meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _run_launcher(registered: RegisteredOp, *args: Any) -> Any:
    return registered.launcher(*args)
