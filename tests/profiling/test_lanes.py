"""Lanes that the page draws of a hand-made trace."""

from disca_rt.profiling.account import account
from disca_rt.profiling.colours import colour
from disca_rt.profiling.lanes import lanes
from disca_rt.profiling.table import rows
from disca_rt.profiling.timeline import read_timeline
from disca_rt.profiling.work import Work
from profiling.traces import launched, marked


def test_on_a_gpu_ranges_stand_above_their_kernels() -> None:
    events = [
        marked("step 0", 0, 10),
        marked("middle full", 1, 9),
        marked("block single_blocks.0", 1, 8),
        marked("op gate_residual", 1, 4),
        *launched("_gate_residual_kernel", 2, 20, 30, number=1),
        *launched("elementwise_kernel", 5, 34, 40, number=2),
        marked("block empty", 8, 9),  # launches nothing
    ]
    timeline = read_timeline(events, is_on_gpu=True)
    drawn = lanes(timeline, account(timeline, ["full"], [Work()]))
    spans = {
        lane["name"]: [(start, length, drawn["names"][name]) for start, length, name, _ in spans]
        for lane in drawn["lanes"]
        for spans in [lane["spans"]]
    }
    assert spans == {
        "step": [(0, 20, "step 0 full")],
        "block": [(0, 20, "single_blocks.0")],
        "op": [(0, 10, "gate_residual")],
        "kernel": [(0, 10, "_gate_residual_kernel"), (14, 6, "elementwise_kernel")],
    }
    assert drawn["end"] == 20


def test_a_step_of_any_label_has_rows_and_a_colour() -> None:
    events = [marked("step 0", 0, 10), *launched("some_kernel", 2, 3, 9, number=1)]
    accounted = account(read_timeline(events, is_on_gpu=True), ["partial"], [])
    assert {row.kind for row in rows(accounted)} == {"partial"}
    assert lanes(read_timeline(events, is_on_gpu=True), accounted)["lanes"][0]["spans"]
    assert colour("partial") not in (colour("full"), colour("predicted"))
