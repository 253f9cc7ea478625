"""The kernels' launches at the real models' shapes, recorded without a device.

Arguments are meta tensors; a launch is recorded where Triton would have run it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from disca_rt.kernels.fused import implementation
from disca_rt.kernels.gated_sum import MAX_BRANCHES
from disca_rt.kernels.key_blocks import Corners
from disca_rt.kernels.launch import trying
from disca_rt.kernels.launch_table import MODELLED, OPS, Choice, LaunchConfig, read_ops
from disca_rt.kernels.op_table import Call, calls
from disca_rt.kernels.registration import RegisteredOp
from disca_rt.kernels.workload import REAL, Shapes

DTYPES = torch.bfloat16, torch.float16, torch.float32


@dataclass(frozen=True)
class Launch:
    """One call of a Triton kernel: `kernel` is a JITFunction, `options` num_warps and constants.

    `minimum_bytes` are the call's (0: bytes are not what limits it).
    """

    op: str
    shapes: str
    dtype: torch.dtype
    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    grid: tuple[int, ...] = ()
    minimum_bytes: int = 0


def recorded(shapes: Iterable[Shapes] = tuple(REAL.values())) -> Iterator[Launch]:
    """Every launch of every op at these shapes, in bf16, by default."""
    for each in shapes:
        for call in calls(each, on_meta).values():
            yield from launches_of(call(), each.name)


def variants() -> Iterator[Launch]:
    """Other launches: other dtypes, no guidance, other orders, measured configurations."""
    name, shapes = next(iter(REAL.items()))
    for dtype in DTYPES[1:]:
        for call in calls(shapes, on_meta, dtype).values():
            yield from launches_of(call(), name)
    made = {op: call() for op, call in calls(shapes, on_meta).items()}
    latents, patches, _, *rest = made["euler_step"].args
    (factors, newest, _), forecast = made["finite_differences"].args, made["forecast"]
    of_channels = made["forecast_channels"]
    for count in (1, MAX_BRANCHES):
        x, branch, gate, *_ = made["gated_sum"].args
        yield from launches_of(
            made["gated_sum"]._replace(args=(x, *(branch, gate) * count), minimum_bytes=0), name
        )
    yield from launches_of(
        made["euler_step"]._replace(args=(latents, patches, None, *rest), minimum_bytes=0), name
    )
    *_, wide = made["quantize_joint"].args
    for args in (made["quantize_joint"].args, (wide,)):  # GELU on the way into linear2, and fc2
        call = made["quantize_joint"]._replace(args=args, minimum_bytes=0)
        for launch in launches_of(call, name):
            yield replace(launch, options={**launch.options, "GELU": True})
    for terms in (1, 2, 4):
        each = on_meta(terms, *factors.shape[1:], dtype=factors.dtype)
        numbers = (on_meta(count, dtype=torch.float32) for count in (2, terms))
        differences = each, newest, next(numbers)
        yield from launches_of(
            made["finite_differences"]._replace(args=differences, minimum_bytes=0), name
        )
        yield from launches_of(forecast._replace(args=(each, next(numbers)), minimum_bytes=0), name)
        table = on_meta(terms, factors.shape[-1], dtype=torch.float32)
        yield from launches_of(of_channels._replace(args=(each, table), minimum_bytes=0), name)
    yield from launches_of(_with_all(made["block_sparse_attention"]), name)
    for section in (OPS, MODELLED):
        for by_op in read_ops(section=section).values():
            yield from _measured(by_op)


def _with_all(call: Call) -> Call:
    """Block-sparse attention with keys of zeros, boxes, padding and some of the heads."""
    q, k, v, plan = call.args
    of_queries, of_keys = (
        each.new_empty(2, *each.shape[-2:]) for each in (plan.queries, plan.keys)
    )
    plan = plan._replace(zeros=plan.counts, corners=Corners(of_queries, of_keys, 1 << 29))
    heads = plan.counts.new_empty(len(q), q.shape[2], dtype=torch.bool)
    return call._replace(args=(q, k, v, plan, plan.counts.new_empty(len(q)), heads))


def _measured(by_op: Mapping[str, Mapping[str, Choice]]) -> Iterator[Launch]:
    """Launches by one device's part of the table, in every dtype: it was measured in bf16 alone."""
    for (name, shapes), dtype in product(REAL.items(), DTYPES):
        for op, make_call in calls(shapes, on_meta, dtype).items():
            call = make_call()
            choice = by_op.get(op, {}).get(str(call.width))
            if isinstance(choice, LaunchConfig):
                with trying({op: choice}):
                    yield from launches_of(call, name)


def launches_of(call: Call, shapes: str) -> list[Launch]:
    launches: list[Launch] = []
    dtype = call.args[1 if call.op == "euler_step" else 0].dtype

    def record(kernel: Any, *arguments: Any, **options: Any) -> None:
        kept = {k: v for k, v in options.items() if k not in ("grid", "warmup")}
        grid, moved = options["grid"], call.minimum_bytes
        launches.append(Launch(call.op, shapes, dtype, kernel, arguments, kept, grid, moved))

    with (
        patch.object(JITFunction, "run", record),
        patch.object(RegisteredOp, "__call__", _run_launcher),
    ):
        implementation(call.op)(*call.args)
    return launches


def on_meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _run_launcher(registered: RegisteredOp, *args: Any) -> Any:
    return registered.launcher(*args)
