"""Every fused op against a copy of as many bytes, eager PyTorch, torch.compile and public kernels.

The baseline is a device copy that moves the fewest bytes the op can move, so a ratio is the inverse
of the fraction of copy bandwidth: P3's 0.90 is a ratio of 1.11. The baseline of products is the
same with a concatenation, that of `linear_gelu` the same without GELU.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from disca_rt.kernels import reference
from disca_rt.kernels.fused import implementation
from disca_rt.kernels.launch import trying
from disca_rt.kernels.op_table import OP_ROWS, TUNED, Call, calls
from disca_rt.kernels.workload import REAL_SHARES, SMALL, Shapes
from disca_rt.measure.harness import Comparison, Contender

from .rivals import rivals

FRACTION = 0.90  # of copy bandwidth: P3
SAMPLES = 30
COMPILED = "torch.compile"
ONCE = "scale_heads"  # it works at the first call of a sample alone

Build = Callable[[], Comparison]


GELU = partial(F.gelu, approximate="tanh")
"""Eager PyTorch for `gelu_tanh`, the one op without a reference of its own."""


def _pair(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(torch.cat([first, second], dim=-1), weight, bias)


CONCATENATED: dict[str, Callable[..., Tensor]] = {
    "joint_linear": reference.joint_linear,
    "pair_linear": _pair,
    "fuse_cached": lambda *args: F.silu(_pair(*args)),
}
"""Products as others compute them: one, over a concatenation or into one."""


def comparisons(
    device: torch.device, is_small: bool, compiled: bool = True
) -> Iterator[tuple[str, Build]]:
    """Every op at the real shapes, by name; tensors are made when a comparison is built.

    `is_small` is for a trial in Triton's interpreter; `compiled`: against torch.compile as well.
    """
    generator = torch.Generator(device).manual_seed(0)

    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device, generator=generator)

    for each in [SMALL] if is_small else REAL_SHARES:
        for op, make_call in calls(each, make).items():
            if op == ONCE:
                continue
            build = partial(_comparison, each, make_call, device, compiled)
            yield f"ops: {op}, {each.name}", build


def _comparison(
    shapes: Shapes, make_call: Callable[[], Call], device: torch.device, compiled: bool
) -> Comparison:
    call = make_call()
    if call.op == "block_sparse_attention":
        contenders = _attention(call)
    else:
        contenders = _moved(call, device) if call.minimum_bytes else _product(call)
    contenders = [each for each in contenders if compiled or each.name != COMPILED]
    return Comparison(
        name=f"{call.op}, {shapes.name}",
        shape={
            "batch": 1,
            "image tokens": shapes.img,
            "text tokens": shapes.txt,
            "hidden": shapes.hidden,
            "heads": shapes.heads,
        },
        dtype="bfloat16",
        contenders=contenders,
        samples=SAMPLES,
    )


def _moved(call: Call, device: torch.device) -> list[Contender]:
    """Contenders of an op that bytes limit: a copy of as many, and what others have."""
    source = torch.randint(255, (call.minimum_bytes // 2,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    eager = getattr(reference, call.op, GELU)
    compiled = torch.compile(eager, dynamic=False)
    runs = {
        "eager PyTorch": partial(eager, *call.args),
        COMPILED: partial(compiled, *call.args),
        **rivals(call.op, call.args),
    }
    size = call.minimum_bytes
    return [
        Contender("copy", lambda: target.copy_(source), minimum_bytes=size),
        Contender(
            "ours",
            partial(implementation(call.op), *call.args),
            goal=1 / FRACTION,
            minimum_bytes=size,
        ),
        *(Contender(name, run, minimum_bytes=size) for name, run in runs.items()),
    ]


def _attention(call: Call) -> list[Contender]:
    """Attention to all keys, and ours to some, each with the FLOPs of its own pairs."""
    q, k, v = (each.transpose(1, 2) for each in call.args[:3])
    full = partial(F.scaled_dot_product_attention, q, k, v)
    ours = partial(implementation(call.op), *call.args)
    return [
        Contender("attention to all keys", full, 4 * q.numel() * k.shape[2]),
        Contender("ours", ours, OP_ROWS[call.op].work(*call.args).flops),
    ]


def _product(call: Call) -> list[Contender]:
    """Contenders of a product: the same with a concatenation, or without its GELU."""

    def forced(variant: str, *args: Any) -> object:
        with trying({call.op: variant}):
            return implementation(call.op)(*args)

    eager = CONCATENATED.get(call.op) or getattr(reference, call.op)
    runs: dict[str, Callable[..., Any]] = {}
    if call.op in CONCATENATED:
        runs |= {"concatenated": eager, "ours": implementation(call.op)}
    else:
        runs["linear alone"] = F.linear
        runs |= {f"ours, {name}": partial(forced, name) for name in TUNED[call.op].variants}
        runs["eager PyTorch"] = eager
    runs[COMPILED] = torch.compile(eager, dynamic=False)
    flops = call_flops(call)
    return [
        Contender(name, partial(run, *call.args), flops, goal=1.0 if name == "ours" else None)
        for name, run in runs.items()
    ]


def call_flops(call: Call) -> int:
    """Floating-point operations of a product's call: two per multiply-add."""
    rows = [each for each in call.args if each.ndim == 3]
    weights = [each for each in call.args if each.ndim == 2]
    if call.op == "joint_linear":
        return sum(2 * x.numel() * len(w) for x, w in zip(rows, weights, strict=True))
    return sum(2 * x.numel() * len(weights[0]) for x in rows)
