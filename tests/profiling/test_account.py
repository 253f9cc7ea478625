"""Account of a hand-made trace: the class of each run, and the gap that remains."""

from dataclasses import replace

import pytest

from disca_rt.measure.ceilings import Ceilings
from disca_rt.profiling.account import account, exposed_times
from disca_rt.profiling.classes import classify
from disca_rt.profiling.table import Row, kernels, rows, stage_line
from disca_rt.profiling.timeline import read_timeline
from disca_rt.profiling.work import Work
from profiling.traces import launched, marked, operator, span

CONVOLVED = [[1, 3, 4, 4, 4], [5, 3, 3, 3, 3], [5]]
CEILINGS = Ceilings(1e12, 1e11, 1024, "float32", 1)


@pytest.mark.parametrize(
    ("kernel", "operator_name", "ranges", "expected"),
    [
        (
            "fmha_cutlass_kernel",
            "aten::scaled_dot_product_attention",
            ["op attention"],
            "attention",
        ),
        ("aten::constant_pad_nd", "aten::constant_pad_nd", ["op attention"], "attention"),
        ("cutlass_gemm", "aten::addmm", ["step 0", "op joint_linear"], "GEMM"),
        ("aten::cat", "aten::cat", ["step 0", "op joint_linear"], "joint_linear"),
        ("nvjet_tst", "aten::linear", ["step 0", "block single_blocks.1"], "GEMM"),
        ("_rms_norm_rope_kernel", "", ["op rms_norm_rope"], "rms_norm_rope"),
        ("_gelu_tanh_kernel", "", ["op linear_gelu"], "linear_gelu"),
        ("_forecast_kernel", "", ["op forecast"], "cache op"),
        ("aten::cat", "aten::cat", ["op join_tokens"], "copy"),
        ("aten::copy_", "aten::copy_", ["step 1", "middle full"], "cache op"),
        ("aten::copy_", "aten::copy_", ["step 1", "middle full", "block x"], "copy"),
        ("ncclDevKernel_SendRecv", "c10d::alltoall_base_", ["block x"], "collective"),
        ("elementwise_kernel", "aten::silu", ["block x"], "other"),
        ("implicit_gemm_fprop", "aten::conv3d", ["stage decode"], "convolution"),
        # In the replay of a graph only names are known.
        ("nvjet_tst_256x128", "", ["step 3"], "GEMM"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "", ["step 3"], "attention"),
        ("_gate_residual_kernel", "", ["step 3"], "gate_residual"),
        ("_gelu_tanh_kernel", "", ["step 3"], "linear_gelu"),
        ("_finite_differences_kernel", "", ["step 3"], "cache op"),
        ("Memcpy DtoD (Device -> Device)", "", ["step 3"], "copy"),
        ("triton_poi_fused_0", "", ["step 3"], "other"),
    ],
)
def test_classes(kernel: str, operator_name: str, ranges: list[str], expected: str) -> None:
    assert classify(kernel, operator_name, ranges) == expected


def on_the_cpu() -> list[dict]:
    return [
        marked("step 0", 0, 100),
        marked("middle full", 10, 90),
        marked("block single_blocks.0", 10, 60),
        marked("op linear_gelu", 12, 40),
        operator("aten::linear", 12, 30, [[1, 8, 4], [16, 4], [16]]),
        operator("aten::addmm", 13, 29, [[16], [8, 4], [4, 16]]),  # inside: it is not counted
        operator("aten::gelu", 31, 39),
        marked("op attention", 40, 60),
        operator("aten::pad", 40, 42),
        operator("aten::scaled_dot_product_attention", 42, 58),
        operator("aten::copy_", 70, 80, [[8, 4], [8, 4]]),
        marked("step 1", 100, 120),
        marked("middle predicted", 100, 120),
        operator("aten::silu", 105, 115),
        operator("aten::silu", 130, 140),  # after the steps
    ]


WORKS = [Work(0, 1024, 1280), Work(2048, 512)]  # of linear_gelu and of attention


def test_on_a_cpu_outermost_operators_count_and_the_gap_is_the_rest() -> None:
    timeline = read_timeline(on_the_cpu(), is_on_gpu=False)
    made = rows(account(timeline, ["full", "predicted"], WORKS))
    full = {row.class_name: row for row in made if row.kind == "full"}
    assert {name: row.time_us for name, row in full.items()} == {
        "GEMM": 18,
        "attention": 18,
        "cache op": 10,
        "linear_gelu": 8,
        "gap": 46,
        "all": 100,
    }
    assert full["GEMM"].work.flops == 2 * 8 * 4 * 16
    assert full["GEMM"].work.minimum_bytes == 4 * (8 * 4 + 4 * 16 + 8 * 16)
    assert full["attention"].work == WORKS[1]
    assert full["linear_gelu"].work == WORKS[0]
    assert full["cache op"].work.minimum_bytes == 2 * 8 * 4 * 4
    assert full["all"].work.flops == 1024 + 2048
    assert full["attention"].flops_per_s == pytest.approx(2048 / 18e-6)
    assert full["cache op"].fraction(CEILINGS) == pytest.approx(256 / 10e-6 / 1e11)
    predicted = {row.class_name: row.time_us for row in made if row.kind == "predicted"}
    assert predicted == {"other": 10, "gap": 10, "all": 20}
    for kind in ("full", "predicted"):
        shares = [row.share for row in made if row.kind == kind and row.class_name != "all"]
        assert sum(shares) == pytest.approx(1)


def on_a_gpu() -> list[dict]:
    """The device lags behind: step 0 ends while the host is in step 1."""
    return [
        marked("step 0", 0, 10),
        marked("block b", 1, 8),
        marked("op head", 1, 4),
        *launched("_head_kernel", 2, 20, 40, number=1),
        *launched("ncclDevKernel", 5, 30, 60, number=2),  # 20 µs under kernel 1 and 3, 10 alone
        operator("aten::linear", 6, 8, [[2, 3], [5, 3]], dtype="c10::BFloat16"),
        *launched("splitk_gemm", 6.5, 50, 70, number=3),
        *launched("splitk_reduce", 7, 70, 75, number=4),
        marked("step 1", 10, 20),
        marked("middle predicted", 11, 19),
        operator("aten::copy_", 12, 14, [[8], [8]], dtype="c10::BFloat16"),
        *launched("Memcpy DtoD", 13, 80, 85, number=5, cat="gpu_memcpy"),
        span("gpu_user_annotation", "step 1", 80, 85),
        *launched("of another sample", 300, 300, 310, number=6),
    ]


def test_on_a_gpu_kernels_count_for_the_step_that_launched_them() -> None:
    timeline = read_timeline(on_a_gpu(), is_on_gpu=True)
    accounted = account(timeline, ["full", "predicted"], [Work(640, 320, 10)])
    assert [(w.start_us, w.end_us) for w in accounted.windows] == [(20, 75), (75, 85)]
    made = {(row.kind, row.class_name): row for row in rows(accounted)}
    exposed = {key: row.time_us for key, row in made.items()}
    assert exposed == {
        ("full", "head"): 20,
        ("full", "GEMM"): 25,
        ("full", "collective"): 10,
        ("full", "gap"): 0,
        ("full", "all"): 55,
        ("predicted", "cache op"): 5,
        ("predicted", "gap"): 5,
        ("predicted", "all"): 10,
    }
    assert made["full", "collective"].busy_us == 30
    assert made["full", "head"].work.flops == 640
    assert made["full", "GEMM"].work == Work(2 * 2 * 3 * 5, 2 * (6 + 15 + 10))  # once for both
    assert made["full", "GEMM"].calls == 2


def test_an_op_leaves_its_flops_to_its_gemm() -> None:
    events = [
        marked("step 0", 0, 50),
        marked("op head", 0, 40),
        operator("aten::native_layer_norm", 0, 10),
        operator("aten::linear", 20, 40, [[1, 2, 3], [5, 3]]),
    ]
    accounted = account(read_timeline(events, False), ["full"], [Work(60, 100, 7)])
    works = {entry.class_name: entry.work for entry in accounted.entries}
    assert works == {"head": Work(0, 100, 7), "GEMM": Work(60, 4 * (6 + 15 + 10))}


def test_pieces_at_once_are_counted_once() -> None:
    timeline = read_timeline(
        [
            marked("step 0", 0, 9),
            *launched("a", 1, 0, 10, number=1),
            *launched("b", 2, 5, 8, number=2),
            *launched("c", 3, 5, 14, number=3),
        ],
        is_on_gpu=True,
    )
    accounted = account(timeline, ["full"], [])
    assert [entry.exposed_us for entry in accounted.entries] == [10, 0, 4]
    assert exposed_times([], [], []) == []


def test_what_holds_operators_is_looked_into() -> None:
    events = [
        marked("step 0", 0, 50),
        operator("_Gather", 0, 20),  # an autograd function
        operator("c10d::_allgather_base_", 5, 15),
        operator("disca_rt::linear_gelu", 20, 40),
        operator("aten::linear", 21, 30, [[2, 3], [5, 3]]),
    ]
    accounted = account(read_timeline(events, False), ["full"], [])
    assert [(s.class_name, s.exposed_us) for s in accounted.entries] == [
        ("collective", 10),
        ("GEMM", 9),
    ]


def test_the_ceiling_is_the_nearer_one() -> None:
    bound_by_bytes = Row("full", "head", 1, 1, 10.0, 10.0, 1.0, Work(4_000_000, 800_000))
    assert bound_by_bytes.fraction(CEILINGS) == pytest.approx(0.8)  # of 10¹¹ B/s; of FLOP/s 0.4
    bound_by_flops = bound_by_bytes.work._replace(minimum_bytes=100_000)
    assert replace(bound_by_bytes, work=bound_by_flops).fraction(CEILINGS) == pytest.approx(0.4)


def test_a_trace_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="the trace has no steps"):
        read_timeline([operator("aten::silu", 0, 1)], is_on_gpu=False)


def test_a_trace_that_lost_events_is_refused() -> None:
    timeline = read_timeline([marked("step 0", 0, 9)], is_on_gpu=False)
    with pytest.raises(ValueError, match="the trace has 1 steps, 2 ran; profile fewer --steps"):
        account(timeline, ["full", "full"], [])


def test_stages_stand_beside_the_steps() -> None:
    events = [
        marked("stage prompts", 0, 40),
        operator("aten::linear", 5, 25, [[1, 8, 4], [16, 4], [16]]),
        marked("step 0", 50, 60),
        operator("aten::silu", 52, 58),
        marked("stage decode", 60, 100),
        operator("aten::conv3d", 60, 90, CONVOLVED, values=["", "", "", "[1]", "[1]", "[1]"]),
    ]
    accounted = account(read_timeline(events, is_on_gpu=False), ["full"], [])
    assert [window.name for window in accounted.windows] == ["prompts", "step 0 full", "decode"]
    made = {(row.kind, row.class_name): row for row in rows(accounted)}
    assert {key: row.time_us for key, row in made.items() if row.class_name != "gap"} == {
        ("prompts", "GEMM"): 20,
        ("prompts", "all"): 40,
        ("full", "other"): 6,
        ("full", "all"): 10,
        ("decode", "convolution"): 30,
        ("decode", "all"): 40,
    }
    assert {row.kind for row in made.values() if row.is_stage} == {"prompts", "decode"}
    assert {kernel.kind for kernel in kernels(accounted) if kernel.is_stage} == {
        "prompts",
        "decode",
    }
    assert made["decode", "convolution"].work.flops == 2 * (5 * 4 * 4 * 4) * (3 * 3**3)
    assert "prompts 44.4%, 1 full step 11.1%, decode 44.4%" in stage_line(rows(accounted))


def test_on_a_gpu_a_stage_lasts_while_the_host_works() -> None:
    events = [
        marked("stage loading", 0, 50),
        *launched("Memcpy HtoD", 10, 12, 30, number=1, cat="gpu_memcpy"),
        marked("step 0", 50, 60),
        *launched("some_kernel", 52, 55, 70, number=2),
        marked("stage decode", 60, 65),
        *launched("some_kernel", 62, 70, 90, number=3),
    ]
    accounted = account(read_timeline(events, is_on_gpu=True), ["full"], [])
    assert [(w.start_us, w.end_us) for w in accounted.windows] == [(0, 50), (50, 70), (70, 90)]
