"""The ops in C++ for CPUs, held to fp64 as the fused ones are; the rest they leave to PyTorch's."""

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import disca_rt.kernels
from disca_rt.kernels import _cpu, native, reference
from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.kernels.ops import OP_NAMES, default_ops, get_ops
from ops.test_fused import (
    COUNTS,
    OFFSETS,
    WIDTHS,
    Args,
    Make,
    arguments,
    assert_as_good_as_reference,
    check,
    rope_of_packed,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the arguments are on the GPU")

DTYPES = [torch.float32, torch.bfloat16]
LOOPS = [name for name, _ in inspect.getmembers(_cpu, inspect.isbuiltin) if name != "attention"]
ROW_OPS = [
    "layer_norm_modulate",
    "gate_residual",
    "gated_sum",
    "gate_residual_layer_norm_modulate",
    "linear_gelu",
    "head",
]
LOOP_OF = {"gate_residual": "gated_sum", "linear_gelu": "gelu_tanh", "head": "layer_norm_modulate"}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def loops_called(run: Callable[[], Any]) -> set[str]:
    """The loops that did what they were called for, instead of leaving it to the reference."""
    done = set()

    def watch(name: str, loop: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            result = loop(*args)
            if result is not None and result is not False:
                done.add(name)
            return result

        return watched

    watched = {name: watch(name, getattr(_cpu, name)) for name in LOOPS}
    with patch.multiple(_cpu, **watched):
        run()
    return done


def check_loop(name: str, args: Args) -> None:
    """Op `name` is its loop's, and as good as the reference."""
    expected = {LOOP_OF.get(name, name)}
    assert loops_called(lambda: check(name, args, native)) == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ROW_OPS)
def test_row_ops(name: str, width: int, dtype: torch.dtype) -> None:
    for rows in COUNTS:
        check_loop(name, arguments(name, Make(dtype, rows, width)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [name for name in OFFSETS if name != "layer_norm"])
def test_norms_of_rows_far_from_zero(name: str, width: int, dtype: torch.dtype) -> None:
    x, *rest = arguments(name, Make(dtype, 21, width))
    check_loop(name, (x.add_(OFFSETS[name]), *rest))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), [(24, 128), (8, 14), (3, 64), (1, 2)])
@pytest.mark.parametrize(("rows", "rotated", "mean"), [(7, 5, 0), (1, 0, 0), (9, 9, 0), (7, 5, 10)])
def test_rms_norm_rope(
    heads: int, width: int, rows: int, rotated: int, mean: int, dtype: torch.dtype
) -> None:
    check_loop("rms_norm_rope", rope_of_packed(Make(dtype), heads, width, rows, rotated, mean))


@pytest.mark.parametrize("dtype", DTYPES)
def test_q_and_k_are_rotated_as_one_by_one(dtype: torch.dtype) -> None:
    args = arguments("rms_norm_rope_pair", Make(dtype))
    q, k, *weights, cos, sin = args
    expected = (
        native.rms_norm_rope(q.clone(), *weights[:2], cos, sin),
        native.rms_norm_rope(k.clone(), *weights[2:], cos, sin),
    )
    assert all(map(torch.equal, native.rms_norm_rope_pair(*args), expected))


def test_rms_norm_rope_leaves_its_neighbours() -> None:
    make = Make(torch.float32)
    packed = make.tensor(2, 7, 3, 4, 8)
    q, k, v = packed.clone().unbind(2)
    angles = make.tensor(5, 4)
    out = native.rms_norm_rope(
        packed[:, :, 0], make.tensor(8), make.tensor(8), angles.cos(), angles.sin()
    )
    assert out.data_ptr() == packed.data_ptr()
    assert torch.equal(packed[:, :, 1], k)
    assert torch.equal(packed[:, :, 2], v)
    assert not torch.equal(packed[:, :, 0], q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_send_layout_is_the_rotation_by_ranks(dtype: torch.dtype) -> None:
    x, *rest = arguments("rms_norm_rope_send", Make(dtype))
    sent = native.rms_norm_rope_send(x.clone(), *rest)
    assert torch.equal(sent, reference.by_ranks(native.rms_norm_rope(x, *rest[:-1]), rest[-1]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 8, 17])
def test_any_number_of_branches_is_added(count: int, dtype: torch.dtype) -> None:
    args = Make(dtype, 7, 112).branches(count)
    check_loop("gated_sum", args)
    x, *others = (each.clone() for each in args)
    into = x.clone()
    assert native.gated_sum(into, *others, out=into) is into
    assert torch.equal(into, native.gated_sum(x, *others))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_and_branches_of_another_dtype_are_added(dtype: torch.dtype) -> None:
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    x, branch, gate = Make(dtype, 7, 112).branches(1)
    for args in ((x, branch.to(other), gate), (x, branch, gate.to(other))):
        check_loop("gated_sum", args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("known", "terms"), [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4)])
def test_differences_and_forecasts(known: int, terms: int, dtype: torch.dtype) -> None:
    make = Make(dtype)
    factors, newest = make.tensor(terms, 2, 63, 40), make.tensor(2, 63, 40)
    ours, theirs, exact = factors.clone(), factors.clone(), factors.double()
    numbers = torch.tensor([3.0, known])
    called = loops_called(lambda: native.finite_differences(ours, newest, numbers))
    assert called == {"finite_differences"}
    reference.finite_differences(theirs, newest, numbers)
    newer = newest.double()
    for order in range(terms):
        older = exact[order].clone()
        exact[order] = newer
        newer = (newer - older) / 3.0 if order + 1 < known else torch.zeros_like(newer)
    assert_as_good_as_reference(ours, theirs, exact)
    check_loop("forecast", (factors, torch.tensor([1.0, 2.0, 2.0, 4 / 3][:terms])))


def test_orders_that_are_not_known_are_zero_whatever_was_there() -> None:
    factors = torch.full((3, 2, 5), float("nan"))
    native.finite_differences(factors, torch.ones(2, 5), torch.tensor([2.0, 1.0]))
    assert torch.equal(factors, torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 2, 5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_of_every_size(dtype: torch.dtype) -> None:
    """Values from 0 to where the tails are 0 and x itself, infinity and NaN."""
    x = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([-1e4, 1e4, -0.0, 1e-20])]).to(dtype)
    inner = 2 * (2 / torch.pi) ** 0.5 * (x.double() + 0.044715 * x.double() ** 3)
    exact = x.double() * inner.sigmoid()
    ours = _cpu.gelu_tanh(x.clone()).double()
    digits = torch.finfo(dtype).eps + 2 * torch.finfo(torch.float32).eps * (1 + inner.abs())
    assert ((ours - exact).abs() <= digits * exact.abs() + 1e-33).all()
    odd = _cpu.gelu_tanh(torch.tensor([float("nan"), float("inf")], dtype=dtype))
    assert odd[0].isnan()
    assert odd[1].isinf()


def test_results_go_where_they_are_welcome() -> None:
    make = Make(torch.float32)
    x, branch = make.rows(7, 64), make.rows(7, 64)
    gate, shift, scale = (make.vector(64) for _ in range(3))
    nan = torch.full((3, 2, 9, 80), float("nan"))
    first, second, third = (each[:, 1:-1, 8:-8] for each in nan)
    assert native.gate_residual(x, branch, gate, out=first) is first
    pair = native.gate_residual_layer_norm_modulate(
        x, branch, gate, shift, scale, out=(second, third)
    )
    assert pair[0] is second
    assert pair[1] is third
    assert torch.equal(first, second)
    assert torch.equal(third, native.layer_norm_modulate(second, shift, scale))
    outside = torch.ones(3, 2, 9, 80, dtype=torch.bool)
    outside[:, :, 1:-1, 8:-8] = False
    assert nan[outside].isnan().all()
    assert not nan[~outside].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["rms_norm_rope", "forecast", "finite_differences", *ROW_OPS[:4]])
def test_no_bit_depends_on_the_threads(name: str, dtype: torch.dtype) -> None:
    """Rows enough for several threads, and a part of them that ends elsewhere."""
    args = arguments(name, Make(dtype, 777, 112))
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            copies = [each.clone() if isinstance(each, Tensor) else each for each in args]
            result = getattr(native, name)(*copies)
            results.append(copies[0] if result is None else result)
    finally:
        torch.set_num_threads(threads)
    both = zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True)
    assert all(torch.equal(*pair) for pair in both)


class Seen(TorchDispatchMode):
    """Counts the operators of PyTorch's."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


LEFT = [name for name in OP_NAMES if hasattr(_cpu, LOOP_OF.get(name, name))]


@pytest.mark.parametrize("name", LEFT)
def test_what_is_watched_or_of_another_kind_is_the_references(name: str) -> None:
    def call(args: Args) -> Callable[[], Any]:
        return lambda: getattr(native, name)(*args)

    args = arguments(name, Make(torch.float32, 7, 112))
    with Seen() as seen:
        assert not loops_called(call(args))
    assert seen.count
    for dtype in (torch.float16, torch.float64):
        others = arguments(name, Make(dtype, 7, 112))
        assert not loops_called(call(others))
    meta = [each.to("meta") if isinstance(each, Tensor) else each for each in args]
    assert not loops_called(call(tuple(meta)))
    with torch.enable_grad():
        args[0].requires_grad_()
        if name != "finite_differences":  # which writes into what it is given
            assert not loops_called(call(args))


@pytest.mark.parametrize("name", ["layer_norm_modulate", "gate_residual", "linear_gelu"])
def test_derivatives_are_the_references(name: str) -> None:
    x, *rest = arguments(name, Make(torch.float32, 7, 64))
    x = x.contiguous()
    results = []
    for row in (native, reference):
        leaf = x.clone().requires_grad_()
        with torch.enable_grad():
            (backward,) = torch.autograd.grad(getattr(row, name)(leaf, *rest).sum(), leaf)
        with forward_ad.dual_level():
            dual = getattr(row, name)(forward_ad.make_dual(x, torch.ones_like(x)), *rest)
            forward = forward_ad.unpack_dual(dual).tangent
        of_function = torch.func.jvp(
            lambda y, row=row: getattr(row, name)(y, *rest), (x,), (torch.ones_like(x),)
        )
        results.append((backward, forward, *of_function))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_compilers_take_them_without_a_break() -> None:
    args = arguments("layer_norm_modulate", Make(torch.float32))
    compiled = torch.compile(native.layer_norm_modulate, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*args), reference.layer_norm_modulate(*args))


def test_rows_that_do_not_lie_together_are_the_references() -> None:
    make = Make(torch.float32)
    x, vector = make.tensor(2, 64, 7).mT, make.vector(64)
    assert not loops_called(lambda: check("layer_norm_modulate", (x, vector, vector), native))
    assert not loops_called(lambda: check("gate_residual", (x, x, vector), native))


def test_empty_rows_are_left_alone() -> None:
    make = Make(torch.float32)
    x, vector = make.tensor(2, 0, 64), make.vector(64)
    assert native.layer_norm_modulate(x, vector, vector).shape == x.shape
    assert native.gate_residual(x, x, vector).shape == x.shape
    assert native.linear_gelu(x, make.tensor(8, 64), make.tensor(8)).shape == (2, 0, 8)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, v: native.layer_norm_modulate(x, v[:, :3], v),
        lambda x, v: native.gate_residual(x, x[:, :3], v),
        lambda x, v: native.gated_sum(x, x, v, x[:, :3], v),
        lambda x, v: native.forecast(x, v[0, :3]),
    ],
)
def test_shapes_that_do_not_fit_are_pytorchs_errors(call: Callable) -> None:
    make = Make(torch.float32)
    with pytest.raises(RuntimeError, match=r"size|shape|subscript|broadcast"):
        call(make.tensor(2, 7, 64), make.vector(64))


def test_a_profiler_sees_them_by_name() -> None:
    args = arguments("gated_sum", Make(torch.float32))
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        native.gated_sum(*args)
    assert "native::gated_sum" in {event.name for event in recorded.events()}


def test_they_are_the_default_on_a_cpu_and_refused_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert default_ops("cpu") == "native"
    assert default_ops("cuda") == "triton"
    with pytest.raises(ValueError, match="ops 'native' run on a CPU, got device 'cuda'; choose"):
        get_ops("native", "cuda")
    monkeypatch.delattr(disca_rt.kernels, "native")
    monkeypatch.setitem(sys.modules, "disca_rt.kernels.native", None)
    with pytest.raises(ValueError, match="which is not built for this Python: pip install"):
        get_ops("native", "cpu")


def test_every_loop_has_an_op() -> None:
    ops = {*OP_ROWS}
    assert {*LOOPS} <= ops
