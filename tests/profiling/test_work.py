"""FLOPs and bytes of single calls, against sums by hand."""

import pytest
import torch
from torch import nn

from disca_rt.kernels.ops import OP_NAMES
from disca_rt.profiling.work import OPS, Work, attention_work, operator_work


def test_every_op_that_does_work_is_known() -> None:
    assert set(OP_NAMES) - set(OPS) == {"buffer", "quantized_buffer"}
    others = {"gelu_tanh", "block_sparse_attention"}
    assert set(OPS) - set(OP_NAMES) == others, "within linear_gelu, and within attention"


def test_of_single_ops() -> None:
    x, wide = torch.zeros(1, 10, 4), torch.zeros(1, 10, 16)
    linear, vector = nn.Linear(4, 16), torch.zeros(1, 4)
    u = 10 * 4 * 4  # bytes of x
    assert OPS["gate_residual"](x, x, vector) == Work(0, 3 * u, 2 * 40)
    assert OPS["linear_gelu"](x, linear) == Work(0, 2 * 4 * u, 10 * 160)
    assert OPS["pair_linear"](x, [wide], linear) == Work()
    assert OPS["head"](x, vector, vector, linear)[:2] == (2 * 10 * 4 * 16, u + 4 * u)
    assert OPS["join_tokens"](x, x).minimum_bytes == 2 * 2 * u
    assert OPS["forecast"](torch.zeros(2, 1, 10, 4), torch.ones(2)).minimum_bytes == 3 * u
    latents, patches = torch.zeros(1, 2, 1, 4, 5), x.bfloat16()
    moved = 2 * u + 10 * 4 * 2
    assert OPS["euler_step"](latents, patches, None, 1.0, linear.bias, (1,), (1,))[:2] == (0, moved)


def test_of_attention() -> None:
    q, k = torch.zeros(2, 5, 3, 8), torch.zeros(2, 7, 3, 8)
    assert attention_work(q, k, k, None) == Work(
        4 * 5 * 7 * 3 * 8 * 2, 4 * 2 * 24 * (5 + 7 + 7 + 5)
    )


def test_of_operators() -> None:
    types = ["c10::BFloat16"] * 3
    product = Work(2 * 6 * 4 * 8, 2 * (6 * 4 + 4 * 8 + 6 * 8))
    assert operator_work("aten::linear", [[2, 3, 4], [8, 4], [8]], types) == product
    assert operator_work("aten::mm", [[6, 4], [4, 8]], types) == product
    assert operator_work("aten::addmm", [[8], [6, 4], [4, 8]], types) == product
    batched = operator_work("aten::bmm", [[2, 6, 4], [2, 4, 8]], types)
    assert batched == Work(2 * product.flops, 2 * product.minimum_bytes)
    assert operator_work("aten::copy_", [[6, 4], [6, 4]], ["float", "float"]) == Work(0, 192)
    assert operator_work("aten::silu", [[6, 4]], ["float"]) == Work()


def test_intensity() -> None:
    assert Work(10, 5, 100).intensity == 2
    assert Work(0, 5, 100).intensity == 20
    assert Work(10, 0, 3).intensity is None
    assert Work(0, 5, 0).intensity is None


@pytest.mark.parametrize("is_strided", [False, True])
def test_of_convolutions(is_strided: bool) -> None:
    values = ["", "", "", "[1, 2]" if is_strided else "[1]", "[0, 1]", "[1, 1]", "1"]
    work = operator_work("aten::conv2d", [[2, 3, 5, 8], [4, 3, 3, 3], [4]], ["float"] * 3, values)
    made = 2 * 4 * 3 * (4 if is_strided else 8)  # [2, 4, 3, 8], every second column where strided
    assert work == Work(2 * made * 3 * 9, 4 * (2 * 3 * 40 + 4 * 27 + made))
    unknown = operator_work("aten::conv2d", [[2, 3, 5, 8], [4, 3, 3, 3]], ["float"] * 2)
    assert unknown == Work()
