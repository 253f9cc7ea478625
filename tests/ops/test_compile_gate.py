"""Every kernel, compiled for GPUs that are not here at the real models' shapes: within its budget.

No spills, no local memory, and 16 bytes per access to activations; a planted spill must be seen.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton

from bench.sass.compiled import missing_tools
from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.kernels.workload import REAL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("gate"),  # compiled by one worker for all tests
]

LIMITED_BY_BYTES = {
    op for op, row in OP_ROWS.items() if row.arguments is not None and not row.is_product
}
ROOT = Path(__file__).parents[2]
ARCHITECTURES = {80, 90, 100}
FP8_ARCHITECTURES = {89, 90, 100}

# Registers per thread and bytes of shared memory, at most, over architectures and shapes. 64
# registers leave room for 1,024 threads on a multiprocessor, 128 for four programs of 128.
BUDGETS = {
    "_layer_norm_kernel": (96, 64),  # two vectors in registers, for all turns
    "_layer_norm_modulate_kernel": (96, 64),
    "_gate_residual_kernel": (72, 0),
    "_gate_residual_layer_norm_modulate_kernel": (128, 64),  # three vectors
    "_gate_residual_layer_norm_modulate_kernel float32": (160, 64),
    "_gated_sum_kernel": (112, 0),  # nine rows are under way at once, so few warps are enough
    "_rms_norm_rope_kernel": (128, 1024),  # rows of q and of k are under way at once
    "_rms_norm_rope_kernel float16": (152, 1024),
    "_rms_norm_rope_kernel float32": (168, 1024),
    "_gelu_tanh_kernel": (64, 0),
    "_gelu_tanh_kernel float32": (96, 0),  # a tile of eight rows is twice the bytes
    "_head_kernel": (112, 65536),
    "_head_kernel float32": (248, 32768),  # products in fp32 by multiply-add, not by tensor core
    "_layer_norm_modulate_quantize_kernel": (96, 64),
    "_gate_residual_layer_norm_modulate_quantize_kernel": (128, 64),
    "_gate_residual_layer_norm_modulate_quantize_kernel float32": (168, 4096),
    "_rms_norm_rope_quantize_kernel": (72, 512),
    "_quantize_joint_kernel": (80, 64),  # a row of 15,360 values in registers, 60 a thread
    "_quantize_heads_kernel": (40, 0),
    "_largest_heads_kernel": (64, 128),
    "_scale_heads_kernel": (24, 0),
    "_block_sparse_attention_kernel": (240, 102400),  # tiles of q, and of three k and v
    "_euler_step_kernel": (48, 0),
    "_finite_differences_kernel": (48, 0),
    "_forecast_kernel": (48, 0),
    "_forecast_channels_kernel": (64, 0),
}
# Loads narrower than 16 bytes that remain, by kernel or by op, and why.
NARROW_LOADS = {
    "_layer_norm_kernel": 3,  # samples of a row, as its pivot
    "_layer_norm_modulate_kernel": 3,
    "_gate_residual_layer_norm_modulate_kernel": 9,  # those of three tensors
    "_rms_norm_rope_kernel": 8,  # weights, once for all turns
    "rms_norm_rope_send": 16,  # those, and the heads' places
    "_layer_norm_modulate_quantize_kernel": 3,  # samples
    "_gate_residual_layer_norm_modulate_quantize_kernel": 9,
    "_rms_norm_rope_quantize_kernel": 3,  # weights and the scale
    "_quantize_joint_kernel": 15,  # 8 bytes: 256 threads hold the row, to have registers for it
    "_quantize_heads_kernel": 3,  # scales, once for all turns
    "_largest_heads_kernel": 1,  # whether there is a scale
    "_scale_heads_kernel": 9,  # a few hundred numbers
    "_euler_step_kernel": 17,  # patches are gathered in the order of the latents; dt
    "_block_sparse_attention_kernel": 40,  # numbers of rows and blocks, counts, corners of boxes
    "_head_kernel": 8,  # shift, scale and bias
    "_finite_differences_kernel": 2,  # distance and known
    "_forecast_kernel": 4,  # coefficients
}

# Stores narrower than 16 bytes: e4m3 is half as wide as what is read, and a row has one scale.
NARROW_STORES = {
    "_layer_norm_modulate_quantize_kernel": 4,
    "_gate_residual_layer_norm_modulate_quantize_kernel": 4,
    "_rms_norm_rope_quantize_kernel": 3,
    "_quantize_joint_kernel": 16,
    "_quantize_heads_kernel": 3,
    "_largest_heads_kernel": 1,
    "_scale_heads_kernel": 1,
}
FP8 = {name for name in BUDGETS if "quantize" in name}


# Issue time over the time of the fewest bytes on an H200 at most, by op; see docs/kernels.md.
ISSUE = 0.45
ISSUE_OF = {
    "gelu_tanh": 0.35,
    "layer_norm": 0.6,  # of the refiner's few hundred rows: no stream
    "euler_step": 0.5,  # patches are gathered; 0.1 activations
    "head": 1.9,  # products; once a step
    # Fewer bytes, and a division of each value by what one more reduction gives.
    "layer_norm_modulate_quantize": 0.85,
    "gate_residual_layer_norm_modulate_quantize": 0.5,
    "rms_norm_rope_quantize": 0.6,
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if lacking := missing_tools():
        pytest.skip(f"this Triton comes without {', '.join(lacking)}, which read machine code")
    path = tmp_path_factory.mktemp("gate") / "gate.jsonl"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "ops.gate", str(path)],
        env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in path.read_text().splitlines()]


def excesses(line: dict[str, Any]) -> list[str]:
    """Names and amounts of all that a kernel takes beyond its budget."""
    kernel = line["kernel"]
    registers, shared = BUDGETS.get(f"{kernel} {line['dtype']}") or BUDGETS.get(kernel, (64, 0))
    narrow_loads = NARROW_LOADS.get(line["op"], NARROW_LOADS.get(kernel, 0))
    found = {
        "registers": line["registers"] - registers,
        "shared memory": line["shared"] - shared,
        "stack": line["stack"],
        "local memory": line["local"],
        "narrow loads": line["loads"] - line["wide_loads"] - narrow_loads,
        "narrow stores": line["stores"] - line["wide_stores"] - NARROW_STORES.get(kernel, 0),
    }
    return [f"{kernel} sm_{line['architecture']} {n}: +{v}" for n, v in found.items() if v > 0]


def test_every_kernel_is_within_its_budget(report: list[dict[str, Any]]) -> None:
    real = [line for line in report if line["op"] != "planted spill"]
    assert [excess for line in real for excess in excesses(line)] == []


def test_instructions_are_issued_while_memory_is_at_work(report: list[dict[str, Any]]) -> None:
    lines = [each for each in report if each["issue"] and each["dtype"] == "bfloat16"]
    found = {(each["op"], each["shapes"], each["issue"]) for each in lines}
    assert {op for op, *_ in found} == LIMITED_BY_BYTES
    assert [each for each in found if each[2] > ISSUE_OF.get(each[0], ISSUE)] == []


def test_the_page_has_the_model_s_figures(report: list[dict[str, Any]]) -> None:
    """Within a tenth, of the Triton that made them: another compiles otherwise."""
    figures = json.loads((ROOT / "bench" / "sass" / "figures.json").read_text())
    if figures["triton"] != triton.__version__:
        pytest.skip(f"the figures are of Triton {figures['triton']}, not {triton.__version__}")
    committed = figures["ratios"]
    assert set(committed) == LIMITED_BY_BYTES
    fresh = {(each["op"], each["shapes"]): each["issue"] for each in default_launches(report)}
    for op, by_shapes in committed.items():
        assert by_shapes == {name: pytest.approx(fresh[op, name], rel=0.1) for name in by_shapes}
        assert set(by_shapes) == set(REAL)


def default_launches(report: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each op and shapes that has an issue time: bf16, by default."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for line in report:
        if line["issue"]:
            first.setdefault((line["op"], line["shapes"]), line)
    return list(first.values())


def test_every_kernel_is_compiled_for_every_architecture(report: list[dict[str, Any]]) -> None:
    compiled = {(line["kernel"], line["architecture"]) for line in report}
    kernels = {name.split()[0] for name in BUDGETS}
    of_fp8 = {name.split()[0] for name in FP8}
    expected = {(kernel, a) for kernel in kernels - of_fp8 for a in ARCHITECTURES}
    assert compiled >= expected | {(kernel, a) for kernel in of_fp8 for a in FP8_ARCHITECTURES}
    files = {path.stem: path.read_text() for path in (ROOT / "kernels").glob("*.py")}
    with_kernel = {stem for stem, text in files.items() if "@triton.jit" in text}
    real = [line for line in report if line["op"] != "planted spill"]
    assert with_kernel - {"row_tile", "e4m3"} == {line["file"] for line in real}
    assert {line["dtype"] for line in real} == {"bfloat16", "float16", "float32"}


def test_a_planted_spill_is_seen(report: list[dict[str, Any]]) -> None:
    planted = [line for line in report if line["op"] == "planted spill"]
    assert {line["architecture"] for line in planted} == ARCHITECTURES
    assert all("local memory" in " ".join(excesses(line)) for line in planted)
