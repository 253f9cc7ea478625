"""Ranges change no bit of a sample, and are where they should be."""

from unittest.mock import patch

import pytest
import torch

from disca_rt.attention.local import LocalAttention
from disca_rt.cache.plan import Setting
from disca_rt.cache.policies import resolve
from disca_rt.kernels.ops import get_ops
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.pipeline.sample import Sample
from disca_rt.profiling.account import account
from disca_rt.profiling.capture import Captured, capture, shortened
from disca_rt.profiling.marked import marked_attention, marked_ops
from disca_rt.profiling.ranges import Ranges
from disca_rt.profiling.table import rows
from disca_rt.profiling.timeline import TraceTimeline, read_timeline
from disca_rt.sampling import ahead
from disca_rt.schedule import preset, shifted
from disca_rt.work.flops import step_flops
from golden_vectors import NAMES, Golden, load_golden

SCHEDULE = preset(4, 5.0, (0, 2))
CPU = torch.device("cpu")


def load(golden: Golden, device: torch.device, ranges: Ranges | None = None) -> Runtime:
    ops, attention = get_ops("reference", device), LocalAttention()
    if ranges is not None:
        ops, attention = marked_ops(ops, ranges), marked_attention("sdpa", ranges)
    files = golden.dit, golden.predictor
    return Runtime.load(*files, device=device, dtype=torch.float32, ops=ops, attention=attention)


def inputs(golden: Golden) -> dict:
    shape = tuple(golden.io["latents"].shape[1:])
    return {"conditioning": golden.conditioning, "latent_shape": shape, "seed": 3}


def profiled(golden: Golden, policy: str, device: torch.device = CPU, **more) -> Captured:
    ranges = Ranges(device)
    runtime = load(golden, device, ranges)
    request = Request(**{**inputs(golden), **more}, schedule=SCHEDULE, policy=policy)
    return capture(runtime, ranges, request, lambda event: None)


def plain(golden: Golden, policy: str, device: torch.device = CPU, **more) -> Sample:
    given = {**inputs(golden), **more}
    return load(golden, device).sample(**given, schedule=SCHEDULE, policy=policy)


def timeline_of(captured: Captured, is_on_gpu: bool = False) -> TraceTimeline:
    return read_timeline(captured.trace["traceEvents"], is_on_gpu)


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.mark.parametrize("policy", ["disca", "taylor", "full"])
def test_not_one_bit_changes(golden: Golden, policy: str) -> None:
    captured = profiled(golden, policy)
    assert torch.equal(captured.sample.latents, plain(golden, policy).latents)
    expected = ["full"] * 4 if policy == "full" else ["full", "predicted", "full", "predicted"]
    assert captured.kinds == expected


def test_two_passes_share_a_step() -> None:
    golden = load_golden("hyvideo15")
    guided = {"negative": golden.conditioning, "guidance_scale": 2.0}
    captured = profiled(golden, "disca", **guided)
    assert torch.equal(captured.sample.latents, plain(golden, "disca", **guided).latents)
    levels = [each.level for each in timeline_of(captured).ranges]
    assert levels.count("step") == 4
    assert levels.count("middle") == 8


def test_ranges_nest(golden: Golden) -> None:
    timeline = timeline_of(profiled(golden, "disca"))
    ranges = timeline.ranges
    steps = [each.name for each in ranges if each.level == "step"]
    assert steps == ["0 full", "1 predicted", "2 full", "3 predicted"]
    outer = [(run, [ranges[i].level for i in run.ranges]) for run in timeline.runs]
    seen = {tuple(levels) for _, levels in outer}
    assert ("step", "middle", "block", "op") in seen
    assert ("step", "op") in seen  # Euler
    for run, _ in outer:
        inside = [ranges[i] for i in run.ranges]
        for each in inside:
            assert each.start_us <= run.start_us
            assert run.end_us <= each.end_us


def test_the_table_counts_the_flops_that_the_formula_does(golden: Golden) -> None:
    with patch.object(ahead, "ROWS", 1):  # so that each step has what it alone needs
        captured = profiled(golden, "disca")
    made = rows(account(timeline_of(captured), captured.kinds, captured.works))
    runtime = load(golden, CPU)
    shape = tuple(golden.io["latents"].shape[1:])
    prepared = runtime.dit.prepare(golden.conditioning, (1, *shape))
    text = prepared.tokens - len(prepared.freqs_cos)
    expected = step_flops(runtime.config, runtime.predictor.config, shape, text)
    counted = {row.kind: row.work.flops / row.steps for row in made if row.class_name == "all"}
    # Modulations of all blocks are computed ahead, also for steps in which no block runs.
    widths = (each.linear.out_features for each in runtime.dit._modulations)
    counted["predicted"] -= 2 * runtime.config.hidden * sum(widths)
    # Embedding and head apart, where the formula takes all text tokens of 1.5 to be the refiner's.
    assert counted["full"] - counted["predicted"] == expected.full - expected.predicted
    if golden.folder.name == "hyvideo10":
        assert counted["full"] == expected.full


def test_a_runtime_is_as_it_was(golden: Golden) -> None:
    ranges = Ranges(CPU)
    runtime = load(golden, CPU, ranges)
    request = Request(**inputs(golden), schedule=preset(1, 5.0), policy="full")
    capture(runtime, ranges, request, lambda event: None)
    assert not any(module._forward_hooks for module in runtime.dit.modules())
    assert not ranges.is_recording


def test_a_failed_sample_closes_its_ranges(golden: Golden) -> None:
    ranges = Ranges(CPU)
    with pytest.raises(ZeroDivisionError), ranges.recording():
        ranges.push("step 0")
        with ranges.range("op head"):
            raise ZeroDivisionError
    assert not ranges.is_recording
    with ranges.recording():
        assert ranges._open == []


def test_the_warm_up_has_both_kinds_of_step(golden: Golden) -> None:
    runtime = load(golden, CPU)
    for steps, policy in ((9, "reuse:interval=5"), (9, "full"), (1, "full")):
        schedule, chosen = shortened(*resolve(shifted(steps, 7.0), policy, runtime.parts))
        assert schedule.steps == min(steps, 2)
        plans = chosen.known_plans(Setting(tuple(schedule), 1, len(chosen.slots)))
        assert len({plan.label for plan in plans}) == (2 if chosen.slots else 1)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["disca", "taylor"])
def test_on_a_gpu(policy: str) -> None:
    golden, device = load_golden("hyvideo10"), torch.device("cuda")
    captured = profiled(golden, policy, device)
    assert torch.equal(captured.sample.latents, plain(golden, policy, device).latents)
    timeline = timeline_of(captured, is_on_gpu=True)
    assert timeline.runs
    inside = [run for run in timeline.runs if run.ranges]
    assert len(inside) > 0.9 * len(timeline.runs)
    made = rows(account(timeline, captured.kinds, captured.works))
    for kind in ("full", "predicted"):
        shares = [row.share for row in made if row.kind == kind and row.class_name != "all"]
        assert sum(shares) == pytest.approx(1, abs=1e-6)
    assert {"GEMM", "attention"} <= {row.class_name for row in made if row.kind == "full"}
