"""Rates of the models' products and attention beside that of a square product: goals P1 and P2.

Every comparison has the square product as its first contender, and a goal is a share of its rate.
Products and attention in FP8 stand beside those in bf16, with their error: whether FP8 is worth its
loss on a device is read from here. The shapes are those of 1.0 at 704x704x129.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from disca_rt.attention.backends import AUTOMATIC, BACKENDS
from disca_rt.attention.fp8 import FP8_KERNELS, attend_decoded, quantized_heads
from disca_rt.instruments.ceiling_work import ceiling_work
from disca_rt.kernels.fp8_reference import scale_heads
from disca_rt.kernels.workload import REAL, SENT_TO, SMALL
from disca_rt.measure.ceilings import MATMUL, ceilings, sustained
from disca_rt.measure.harness import Comparison, Contender

ATTENTION_SHARE, LINEAR_SHARE = 0.88, 0.95  # of the square product's rate: P1, P2
SAMPLES, ATTENTION_SAMPLES = 10, 5
CHECKED = 256  # rows whose error is taken
LARGEST = 448.0  # of e4m3

LINEARS = {
    "qkv or proj": (1, 1),
    "qkv merged": (1, 3),
    "fc1 or mlp half": (1, 4),
    "fc2": (4, 1),
    "linear2": (5, 1),
    "fusion": (2, 1),
}
"""Widths of a linear's input and output, in units of the hidden width."""

Run = Callable[[], Tensor]
Build = Callable[[], Comparison]


def comparisons(device: torch.device, is_small: bool) -> Iterator[tuple[str, Build]]:
    """Ceilings, then every linear and attention, by name; `is_small` is for a trial on a CPU."""
    shapes = SMALL if is_small else next(iter(REAL.values()))
    for comparison in ceilings(device, torch.bfloat16, is_small):
        yield f"rates: {comparison.name}", lambda comparison=comparison: comparison
    yield "rates: sustained", partial(sustained, device, torch.bfloat16, is_small)
    for name, factors in LINEARS.items():
        sizes = tuple(factor * shapes.hidden for factor in factors)
        yield f"rates: {name}", partial(_linear, name, shapes.tokens, sizes, device, is_small)
    width = shapes.hidden // shapes.heads
    for heads in (shapes.heads, max(1, shapes.heads // SENT_TO)):
        sizes = 1, shapes.tokens, heads, width
        yield f"rates: attention, {heads} heads", partial(_attention, sizes, device, is_small)


def _linear(
    name: str, rows: int, widths: tuple[int, int], device: torch.device, is_small: bool
) -> Comparison:
    fan_in, fan_out = widths
    x, weight = _random(device, rows, fan_in), _random(device, fan_out, fan_in) / fan_in**0.5
    bias, flops = _random(device, fan_out), 2 * rows * fan_in * fan_out
    square = _square(device, is_small)
    goal = flops / square.flops / LINEAR_SHARE
    plain: dict[str, Run] = {"bf16": partial(F.linear, x, weight, bias)}
    wanted = F.linear(x[:CHECKED], weight, bias)
    in_fp8 = {
        f"FP8, {kind}": _scaled(x, weight, bias, dim)
        for kind, dim in (("row-wise", 1), ("tensor-wise", None))
    }
    contenders = [square, *_contenders(plain, flops, goal), *_checked(in_fp8, flops, wanted, 0)]
    shape = {"rows": rows, "in": fan_in, "out": fan_out}
    return Comparison(f"linear {name}", shape, "bfloat16", contenders, SAMPLES)


def _scaled(x: Tensor, weight: Tensor, bias: Tensor, dim: int | None) -> Run:
    """Product in e4m3 with one scale for each row (`dim` 1) or for the whole (None)."""
    rows, row_scale = _quantized(x, dim)
    matrix, scale = _quantized(weight, dim)
    return partial(
        torch._scaled_mm,
        rows,
        matrix.T,
        scale_a=row_scale,
        scale_b=scale.T if dim else scale,
        bias=bias,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )


def _quantized(x: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    largest = x.abs().amax() if dim is None else x.abs().amax(dim, keepdim=True)
    scale = largest.float() / LARGEST
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def _attention(
    sizes: tuple[int, int, int, int], device: torch.device, is_small: bool
) -> Comparison:
    _, tokens, heads, width = sizes
    q, k, v = (_random(device, *sizes) for _ in range(3))
    flops, square = 4 * tokens**2 * heads * width, _square(device, is_small)
    goal = flops / square.flops / ATTENTION_SHARE
    runs: dict[str, Run] = {
        name: partial(row, q, k, v, None)
        for name, row in BACKENDS.items()
        if name not in (AUTOMATIC, "math", *FP8_KERNELS)  # math keeps all scores: 200 GB
        and row.missing() is None
        and row.takes(device.type, q.dtype)
    }
    runs |= _attention_in_fp8(q, k, v)
    few = (x.transpose(1, 2).float() for x in (q[:, :CHECKED], k, v))
    wanted = F.scaled_dot_product_attention(*few).transpose(1, 2)
    shape = {"tokens": tokens, "heads": heads, "width": width}
    contenders = [square, *_checked(runs, flops, wanted, 1, goal)]
    return Comparison("attention", shape, "bfloat16", contenders, ATTENTION_SAMPLES)


def _attention_in_fp8(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Run]:
    """Attention over heads that are e4m3 already, by the kernels that are here."""
    runs = {}
    for name, kernel in FP8_KERNELS.items():
        if kernel.attend is attend_decoded or not kernel.runs_on(q.device):
            continue
        heads = []
        for each in (q, k, v):
            scale = kernel.new_scale(each)
            scale_heads(each, scale)
            heads.append(quantized_heads(each, scale))
        runs[name] = partial(kernel.attend, *heads, None, q.dtype)
    return runs


def _contenders(runs: Mapping[str, Run], flops: int, goal: float | None) -> list[Contender]:
    return [Contender(name, run, flops, goal=goal) for name, run in runs.items()]


def _checked(
    runs: Mapping[str, Run], flops: int, wanted: Tensor, dim: int, goal: float | None = None
) -> list[Contender]:
    """Contenders with the error of their first rows along `dim`; one that cannot run has none."""
    made = []
    for name, run in runs.items():
        note = ""
        with suppress(Exception):  # the harness says why, when it warms up
            found = run().narrow(dim, 0, wanted.shape[dim]).double()
            note = f"error {((found - wanted).norm() / wanted.double().norm()).item():.1e}"
        made.append(Contender(name, run, flops, note, goal))
    return made


def _square(device: torch.device, is_small: bool) -> Contender:
    work = ceiling_work(device, torch.bfloat16, is_small)
    return Contender(MATMUL, work.product, work.flops)


def _random(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(shape, device=device, dtype=torch.bfloat16)
