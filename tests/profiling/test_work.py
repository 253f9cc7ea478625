"""FLOPs and bytes of single calls, against sums by hand and against the benches' own minimum."""

import pytest
import torch

from disca_rt.kernels.ops import Ops
from disca_rt.kernels.workload import REAL, SMALL, Shapes, calls
from disca_rt.profiling.work import OPS, OperatorWork, attention_work, operator_work


@pytest.mark.parametrize("shapes", [SMALL, *REAL.values()], ids=lambda shapes: shapes.name)
def test_bytes_are_the_minimum_that_the_benches_go_by(shapes: Shapes) -> None:
    def make(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    compared = set()
    for op, make_call in calls(shapes, make).items():
        if op in OPS and op != "rms_norm_rope_send":  # its packing cannot be on the meta device
            call = make_call()
            if call.minimum_bytes:
                assert OPS[op](*call.args).minimum_bytes == call.minimum_bytes, op
                compared.add(op)
    assert len(compared) == 10


def test_every_op_that_does_work_is_known() -> None:
    assert set(Ops._fields) - set(OPS) == {"buffer"}
    assert set(OPS) <= set(Ops._fields)


def test_of_single_ops() -> None:
    x, wide = torch.zeros(1, 10, 4), torch.zeros(1, 10, 16)
    weight, bias, vector = torch.zeros(16, 4), torch.zeros(16), torch.zeros(1, 4)
    u = 10 * 4 * 4  # bytes of x
    assert OPS["gate_residual"](x, x, vector) == OperatorWork(0, 3 * u, 2 * 40)
    assert OPS["linear_gelu"](x, weight, bias) == OperatorWork(0, 2 * 4 * u, 10 * 160)
    assert OPS["pair_linear"](x, wide, torch.zeros(4, 20), vector[0]) == OperatorWork()
    assert OPS["head"](x, vector, vector, weight, bias)[:2] == (2 * 10 * 4 * 16, u + 4 * u)
    assert OPS["join_tokens"](x, x).minimum_bytes == 2 * 2 * u
    assert OPS["forecast"](torch.zeros(3, 1, 10, 4), [1.0, 2.0]).minimum_bytes == 3 * u
    latents, patches = torch.zeros(1, 2, 1, 4, 5), x.bfloat16()
    moved = 2 * u + 10 * 4 * 2
    assert OPS["euler_step"](latents, patches, None, 1.0, bias, (1,), (1,))[:2] == (0, moved)


def test_of_attention() -> None:
    q, k = torch.zeros(2, 5, 3, 8), torch.zeros(2, 7, 3, 8)
    assert attention_work(q, k, k, None) == OperatorWork(
        4 * 5 * 7 * 3 * 8 * 2, 4 * 2 * 24 * (5 + 7 + 7 + 5)
    )


def test_of_operators() -> None:
    types = ["c10::BFloat16"] * 3
    product = OperatorWork(2 * 6 * 4 * 8, 2 * (6 * 4 + 4 * 8 + 6 * 8))
    assert operator_work("aten::linear", [[2, 3, 4], [8, 4], [8]], types) == product
    assert operator_work("aten::mm", [[6, 4], [4, 8]], types) == product
    assert operator_work("aten::addmm", [[8], [6, 4], [4, 8]], types) == product
    batched = operator_work("aten::bmm", [[2, 6, 4], [2, 4, 8]], types)
    assert batched == OperatorWork(2 * product.flops, 2 * product.minimum_bytes)
    assert operator_work("aten::copy_", [[6, 4], [6, 4]], ["float", "float"]) == OperatorWork(
        0, 192
    )
    assert operator_work("aten::silu", [[6, 4]], ["float"]) == OperatorWork()


def test_intensity() -> None:
    assert OperatorWork(10, 5, 100).intensity == 2
    assert OperatorWork(0, 5, 100).intensity == 20
    assert OperatorWork(10, 0, 3).intensity is None
    assert OperatorWork(0, 5, 0).intensity is None
