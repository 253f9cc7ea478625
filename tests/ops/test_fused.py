"""The fused ops against fp64, at odd shapes and strides: no more than twice the reference's error.

Without a GPU they run in Triton's interpreter, in fp32; its bf16 arithmetic is not a GPU's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from disca_rt.kernels import launch, reference
from disca_rt.kernels.launch import trying
from disca_rt.kernels.launch_table import LaunchConfig
from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.kernels.ops import IMPLEMENTATIONS
from disca_rt.kernels.packing import Packing, packing
from disca_rt.kernels.workload import Arguments, Shapes
from ops import oracle

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [
    torch.float32,
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu),
    pytest.param(torch.float16, marks=pytest.mark.gpu),
]
WIDTHS = [64, 112, 1000, 2048, 3072]
COUNTS = [1, 7, 63]  # of rows

Args = tuple[Any, ...]


def fused() -> ModuleType:
    return IMPLEMENTATIONS["triton"](DEVICE)


class Make(Arguments):
    """Random arguments at an odd shape; rows are slices of wider buffers, never contiguous."""

    def __init__(
        self, dtype: torch.dtype, rows: int = 7, width: int = 32, batch: int = 2, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def make(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.randn(shape, generator=generator).to(DEVICE, dtype)

        txt, grid, patch = rows // 3, (2, 3, 2), (1, 2, 2)
        super().__init__(
            Shapes("odd", rows - txt, txt, width, 4, 16, grid, patch, batch), make, dtype
        )

    def rows(self, rows: int, width: int) -> Tensor:
        return self.tensor(self.shapes.batch, rows + 2, width + 16)[:, 1:-1, 8:-8]

    def vector(self, width: int) -> Tensor:
        return self.tensor(self.shapes.batch, 3 * width)[:, width : 2 * width]

    def tokens(self, factor: int = 1) -> Tensor:
        return self.rows(self.shapes.tokens, factor * self.shapes.hidden)

    def rope(self) -> Args:
        x, *others = super().rope()
        packed = self.tensor(*x.shape[:2], 3, *x.shape[2:])  # q, k and v
        return packed[:, :, 1], *others

    def packing(self) -> Packing:
        return packing([1, 3], DEVICE)


def error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def assert_as_good_as_reference(ours: Tensor, theirs: Tensor, exact: Tensor) -> None:
    """The one tolerance: twice the error of the same dtype's reference, or a rounding of each."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert torch.isfinite(ours).all()
    # Rounding the exact result leaves about eps / 4; fp32 sums differ by their order too.
    eps = torch.finfo(ours.dtype).eps
    bound = max(2 * error(theirs, exact), 2 * eps if ours.dtype == torch.float32 else eps / 4)
    assert error(ours, exact) <= bound


def check(name: str, args: Args, ops: ModuleType | None = None) -> None:
    """Op `name` of `ops` (by default the fused ones), the reference's and fp64, on copies."""
    with results_begin_as_nan():
        results = _results(name, args, ops or fused())
    groups = zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True)
    for ours, theirs, exact in groups:
        assert_as_good_as_reference(ours, theirs, exact)


@contextmanager
def results_begin_as_nan() -> Iterator[None]:
    """PyTorch fills new memory, so that what an op leaves unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(3, device=DEVICE).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _results(name: str, args: Args, ops: ModuleType) -> list[Any]:
    """Results of the op under test, the reference and the oracle."""
    return [
        function(*[each.clone() if isinstance(each, Tensor) else each for each in args])
        for function in (
            lambda *copies: getattr(ops, name)(*_as_strided(copies, args)),
            getattr(reference, name),
            getattr(oracle, name),
        )
    ]


def _as_strided(copies: Args, originals: Args) -> Args:
    """Copies with the strides of the originals, which cloning may have lost."""
    strided = []
    for copy, original in zip(copies, originals, strict=True):
        if isinstance(copy, Tensor) and copy.stride() != original.stride():
            base = torch.full(
                (original.untyped_storage().size() // original.element_size(),),
                float("nan"),
                dtype=original.dtype,
                device=original.device,
            )
            view = base.as_strided(original.shape, original.stride(), original.storage_offset())
            view.copy_(copy)
            copy = view
        strided.append(copy)
    return tuple(strided)


def arguments(name: str, make: Make) -> Args:
    """The call of op `name` in the table of ops, at the shape of `make`."""
    return OP_ROWS[name].arguments(make)


def rope_of_packed(
    make: Make, heads: int, width: int, rows: int, rotated: int, mean: float
) -> Args:
    """Arguments of rms_norm_rope: k of packed q, k, v, whose first `rotated` rows turn."""
    packed = make.tensor(2, rows, 3, heads, width).add_(mean)
    angles = make.tensor(rotated, width // 2, dtype=torch.float32)
    return packed[:, :, 1], make.tensor(width), make.tensor(width), angles.cos(), angles.sin()


ROW_OPS = [
    "layer_norm",
    "layer_norm_modulate",
    "gate_residual",
    "gated_sum",
    "gate_residual_layer_norm_modulate",
    "linear_gelu",
    "pair_linear",
    "head",
    "fuse_cached",
    "joint_linear",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ROW_OPS)
def test_row_ops(name: str, width: int, dtype: torch.dtype) -> None:
    for rows in COUNTS if width <= 112 else COUNTS[1:2]:
        check(name, arguments(name, Make(dtype, rows, width)))


OFFSETS = {
    "layer_norm": 10.0,
    "layer_norm_modulate": 10.0,
    "gate_residual_layer_norm_modulate": 10.0 * 2**0.5,  # of a sum whose std is √2
    "head": 10.0,
}
"""A mean of 10 std, from which a norm must not lose digits."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", OFFSETS)
def test_norms_of_rows_far_from_zero(name: str, width: int, dtype: torch.dtype) -> None:
    x, *rest = arguments(name, Make(dtype, 21, width))
    check(name, (x.add_(OFFSETS[name]), *rest))


@pytest.mark.parametrize("name", OFFSETS)
def test_an_outlier_of_one_channel_costs_a_norm_no_digits(name: str) -> None:
    """Where it is among the three values by which a row is centred."""
    for channel in (0, 32, 63):
        x, *rest = arguments(name, Make(torch.float32, 7, 64))
        x[..., channel] += 1e3
        check(name, (x, *rest))


TURNING = (
    "layer_norm",
    "layer_norm_modulate",
    "gate_residual",
    "gate_residual_layer_norm_modulate",
    "rms_norm_rope",
    "rms_norm_rope_pair",
)


@pytest.mark.parametrize("name", TURNING)
def test_a_program_takes_several_tiles_of_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """21 rows of 2 samples by 3 programs each, the last of which has fewer."""
    monkeypatch.setattr(launch, "PROGRAMS", 1)
    with trying({name: LaunchConfig(2, 1, 4)}):
        check(name, arguments(name, Make(torch.float32, 21, 2048)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), [(24, 128), (16, 128), (8, 14), (3, 64), (1, 2)])
@pytest.mark.parametrize(("rows", "rotated", "mean"), [(7, 5, 0), (1, 0, 0), (9, 9, 0), (7, 5, 10)])
def test_rms_norm_rope(
    heads: int, width: int, rows: int, rotated: int, mean: int, dtype: torch.dtype
) -> None:
    check("rms_norm_rope", rope_of_packed(Make(dtype), heads, width, rows, rotated, mean))


@pytest.mark.parametrize("dtype", DTYPES)
def test_q_and_k_are_rotated_at_once_as_one_by_one(dtype: torch.dtype) -> None:
    """Of packed heads; each in place and by weights of its own."""
    make = Make(dtype)
    args = arguments("rms_norm_rope_pair", make)
    check("rms_norm_rope_pair", args)
    q, k, *weights, cos, sin = args
    one_by_one = [
        fused().rms_norm_rope(each.clone(), *of_each, cos, sin)
        for each, of_each in ((q, weights[:2]), (k, weights[2:]))
    ]
    both = fused().rms_norm_rope_pair(*args)
    assert [each.data_ptr() for each in both] == [q.data_ptr(), k.data_ptr()]
    assert all(map(torch.equal, both, one_by_one))


def test_rms_norm_rope_is_in_place_and_leaves_its_neighbours() -> None:
    make = Make(torch.float32)
    packed = make.tensor(2, 7, 3, 4, 8)
    q, k, v = packed.clone().unbind(2)
    angles = make.tensor(5, 4)
    weights = make.tensor(8), make.tensor(8)
    out = fused().rms_norm_rope(packed[:, :, 0], *weights, angles.cos(), angles.sin())
    assert out.data_ptr() == packed.data_ptr()
    assert torch.equal(packed[:, :, 1], k)
    assert torch.equal(packed[:, :, 2], v)
    assert not torch.equal(packed[:, :, 0], q)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts", [(2, 2), (1, 1, 1, 1), (2, 1, 1), (4,), (3, 0, 1)])
def test_the_send_layout_is_the_rotation_by_ranks(
    counts: tuple[int, ...], dtype: torch.dtype
) -> None:
    make, heads = Make(dtype), sum(counts)
    x = make.tensor(2, 7, 3, heads, 8)[:, :, 1]
    angles = make.tensor(5, 4, dtype=torch.float32)
    tables = make.tensor(8), make.tensor(8), angles.cos(), angles.sin()
    with results_begin_as_nan():
        sent = fused().rms_norm_rope_send(x, *tables, packing(counts, DEVICE))
    expected = fused().rms_norm_rope(x.clone(), *tables)
    parts = expected.split(counts, dim=2)
    assert torch.equal(sent, torch.cat([part.flatten(1, 2) for part in parts], dim=1))
    assert sent.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    ("channels", "grid", "patch"),
    [(16, (2, 3, 5), (1, 2, 2)), (12, (5, 6, 8), (1, 2, 2)), (32, (3, 4, 7), (1, 1, 1))],
)
def test_euler_step(
    channels: int,
    grid: tuple[int, int, int],
    patch: tuple[int, int, int],
    guided: bool,
    dtype: torch.dtype,
) -> None:
    make = Make(dtype)
    sides = [g * p for g, p in zip(grid, patch, strict=True)]
    latents = make.tensor(2, channels, *sides, dtype=torch.float32)
    shape = (2, grid[0] * grid[1] * grid[2], channels * patch[0] * patch[1] * patch[2])
    patches, uncond = make.tensor(*shape), make.tensor(*shape)
    dt = torch.tensor(-0.05, device=DEVICE)
    check("euler_step", (latents, patches, uncond if guided else None, 6.0, dt, grid, patch))


def test_a_sample_past_32_bits_is_refused() -> None:
    from disca_rt.kernels.euler_step import euler_step_into

    grid, patch = [2**13, 2**9, 2**9], [1, 1, 1]
    latents, dt = torch.empty(2, 1, *grid, device="meta"), torch.empty((), device="meta")
    patches = torch.empty(2, 2**31, 1, device="meta")
    with pytest.raises(ValueError, match="must have at most 2147482624 latents, got 2147483648"):
        euler_step_into.launcher(latents, patches, None, 1.0, dt, grid, patch, latents)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_residual_is_reused_with_a_gate_of_one(dtype: torch.dtype) -> None:
    make = Make(dtype)
    x, residual, one = make.rows(7, 112), make.rows(7, 112), torch.ones(1, 112)
    reused = fused().gate_residual(x, residual, one.to(DEVICE, dtype).expand(2, -1))
    assert torch.equal(reused, x + residual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 8, 9, 17])
def test_any_number_of_branches_is_added(count: int, dtype: torch.dtype) -> None:
    """Eight are added in a turn; the rows may be the result's own memory."""
    args = Make(dtype, 7, 112).branches(count)
    check("gated_sum", args)
    x, *others = (each.clone() for each in args)
    for ops in (fused(), reference):
        into = x.clone()
        with torch.no_grad():
            ops.gated_sum(into, *others, out=into)
        assert torch.equal(into, ops.gated_sum(x, *others))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("known", "terms"), [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4)])
def test_differences_and_forecasts(known: int, terms: int, dtype: torch.dtype) -> None:
    make = Make(dtype)
    factors, newest = make.tensor(terms, 2, 63, 40), make.tensor(2, 63, 40)
    ours, theirs, exact = factors.clone(), factors.clone(), factors.double()
    numbers = torch.tensor([3.0, known], device=DEVICE)
    fused().finite_differences(ours, newest, numbers)
    reference.finite_differences(theirs, newest, numbers)
    newer = newest.double()
    for order in range(terms):
        older = exact[order].clone()
        exact[order] = newer
        newer = (newer - older) / 3.0 if order + 1 < known else torch.zeros_like(newer)
    assert_as_good_as_reference(ours, theirs, exact)
    coefficients = torch.tensor([1.0, 2.0, 2.0, 4 / 3][:terms], device=DEVICE)
    check("forecast", (factors, coefficients))
    check("forecast_channels", (factors, make.tensor(terms, 40).float()))


def test_results_go_where_they_are_welcome() -> None:
    ops, make = fused(), Make(torch.float32)
    x, branch = make.rows(7, 64), make.rows(7, 64)
    gate, shift, scale = (make.vector(64) for _ in range(3))
    nan = torch.full((3, 2, 9, 80), float("nan"), device=DEVICE)
    first, second, third = (each[:, 1:-1, 8:-8] for each in nan)
    assert ops.gate_residual(x, branch, gate, out=first) is first
    pair = ops.gate_residual_layer_norm_modulate(x, branch, gate, shift, scale, out=(second, third))
    assert pair[0] is second
    assert pair[1] is third
    assert torch.equal(first, second)
    assert torch.equal(third, ops.layer_norm_modulate(second, shift, scale))
    outside = torch.ones(3, 2, 9, 80, dtype=torch.bool)
    outside[:, :, 1:-1, 8:-8] = False
    assert nan[outside.to(DEVICE)].isnan().all()
    assert not nan[~outside.to(DEVICE)].isnan().any()


STRIDE = 2**30 + 8  # of rows: the third begins past what 32 bits address


def far_apart(values: Tensor) -> Tensor:
    """Rows equal to `values [1, 3, ...]`, far apart in memory; only their pages are touched."""
    memory = torch.empty(2 * STRIDE + values[0, 0].numel(), dtype=values.dtype, device=DEVICE)
    inner = values.stride()[2:]
    return memory.as_strided(values.shape, (3 * STRIDE, STRIDE, *inner)).copy_(values)


@pytest.mark.parametrize("name", ["layer_norm", "layer_norm_modulate", "head"])
def test_addresses_take_64_bits(name: str) -> None:
    x, *rest = arguments(name, Make(torch.float32, 9, 64, batch=1))
    x = x[:, :3]
    op = getattr(fused(), name)
    assert torch.equal(op(far_apart(x), *rest), op(x, *rest))


def test_addresses_of_residuals_take_64_bits() -> None:
    ops, make = fused(), Make(torch.float32, batch=1)
    x, branch = make.rows(3, 64), make.rows(3, 64)
    gate, shift, scale = (make.vector(64) for _ in range(3))
    near = ops.gate_residual_layer_norm_modulate(x, branch, gate, shift, scale)
    out = far_apart(x)
    assert torch.equal(ops.gate_residual(x, far_apart(branch), gate, out=out), near[0])
    pair = far_apart(branch), out
    far = ops.gate_residual_layer_norm_modulate(far_apart(x), branch, gate, shift, scale, out=pair)
    assert all(torch.equal(*both) for both in zip(far, near, strict=True))


def test_addresses_in_place_take_64_bits() -> None:
    from disca_rt.kernels.gelu_tanh import gelu_tanh_

    make = Make(torch.float32, batch=1)
    heads = make.tensor(1, 3, 4, 16)
    angles = make.tensor(2, 8)
    tables = make.tensor(16), make.tensor(16), angles.cos(), angles.sin()
    far = fused().rms_norm_rope(far_apart(heads), *tables)
    near = fused().rms_norm_rope(heads.clone(), *tables)
    assert torch.equal(far, near)
    by_head = heads.transpose(1, 2)[:, :3].contiguous()
    far = far_apart(by_head).transpose(1, 2)
    assert torch.equal(fused().rms_norm_rope(far, *tables), near[:, :, :3])
    rows = heads.flatten(2)
    far = far_apart(rows)
    gelu_tanh_(rows)
    gelu_tanh_(far)
    assert torch.equal(far, rows)


def test_gelu_is_in_place_and_leaves_its_neighbours() -> None:
    from disca_rt.kernels.gelu_tanh import gelu_tanh_

    make = Make(torch.float32)
    wide = 3 * make.tensor(2, 9, 1100)
    before, rows = wide.clone(), wide[:, 1:-1, 8:-8]
    expected = F.gelu(rows.double(), approximate="tanh")
    gelu_tanh_(rows)
    assert error(rows, expected) < 1e-6
    rows.copy_(before[:, 1:-1, 8:-8])
    assert torch.equal(wide, before)


def test_gelu_is_in_the_epilogue_of_a_gpu_s_product_by_default() -> None:
    from disca_rt.kernels.linear_gelu import default_variant

    assert default_variant(torch.device("cuda", 1)) == "epilogue"
    assert default_variant(torch.device("cpu")) == "in place"  # whose epilogue is the other GELU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_epilogue_is_as_good_as_the_kernel(dtype: torch.dtype) -> None:
    make = Make(dtype)
    with trying({"linear_gelu": "epilogue"}):
        check(
            "linear_gelu", (make.tensor(2, 63, 512), make.tensor(2048, 512) / 23, make.tensor(2048))
        )


def test_empty_rows_are_left_alone() -> None:
    ops, make = fused(), Make(torch.float32)
    x, vector = make.tensor(2, 0, 64), make.vector(64)
    assert ops.layer_norm_modulate(x, vector, vector).shape == x.shape
    assert ops.gate_residual(x, x, vector).shape == x.shape
    assert ops.linear_gelu(x, make.tensor(8, 64), make.tensor(8)).shape == (2, 0, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o, x, v: o.layer_norm_modulate(x, v[:1], v), r"shift must be \[2, 64\], got \[1"),
        (lambda o, x, v: o.layer_norm_modulate(x.long(), v, v), "x must be fp32, bf16 or fp16"),
        (lambda o, x, v: o.gate_residual(x, x[:, :3], v), r"branch must be \[2, 7, 64\]"),
        (lambda o, x, v: o.gated_sum(x, x, v, x[:, :3], v), r"branch must be \[2, 7, 64\]"),
        (lambda o, x, v: o.gated_sum(x, x, v, x, v[:1]), r"gate must be \[2, 64\], got"),
        (lambda o, x, v: o.gate_residual(x.mT, x.mT, v), "x must be contiguous along its last"),
        (lambda o, x, v: o.head(x, v, v, x[0], v[0, :1]), r"bias must be \[7\], got \[1\]"),
        (lambda o, x, v: o.forecast(x, v[0, :3]), r"coefficients must be \[2\], got \[3\]"),
        (lambda o, x, v: o.finite_differences(x, x[0], v[0]), r"numbers must be \[2\], got"),
    ],
)
def test_bad_arguments_are_named(call: Callable, message: str) -> None:
    make = Make(torch.float32)
    with pytest.raises(ValueError, match=message):
        call(fused(), make.tensor(2, 7, 64), make.vector(64))


def test_what_writes_into_its_arguments_refuses_gradients() -> None:
    from disca_rt.kernels.layer_norm_modulate import layer_norm_modulate_into

    make = Make(torch.float32)
    x, vector = make.tensor(2, 7, 64).requires_grad_(True), make.vector(64)
    out = torch.empty_like(x, requires_grad=False)
    with pytest.raises(RuntimeError, match="op layer_norm_modulate_into has no backward; take the"):
        layer_norm_modulate_into(x, vector, vector, out)
    with torch.no_grad():
        layer_norm_modulate_into(x, vector, vector, out)
    factors = make.tensor(3, 7, 64).requires_grad_(True)
    with pytest.raises(RuntimeError, match="op finite_differences has no backward"):
        fused().finite_differences(factors, make.tensor(7, 64), torch.ones(2, device=DEVICE))
