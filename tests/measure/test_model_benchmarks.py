"""`disca-rt bench` and its parts, on the smallest shapes. No test looks at a time."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import recorded
from disca_rt.cache.labels import FULL
from disca_rt.cache.plan import StepPlan
from disca_rt.cli import build_parser, main
from disca_rt.commands.bench_session import _chosen
from disca_rt.config import MODELS, DiTConfig, predictor_config
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.time_spans import union
from disca_rt.kernels.workload import REAL
from disca_rt.measure.diffusers_models import Unavailable, diffusers_model, diffusers_step
from disca_rt.measure.harness import measure
from disca_rt.measure.ladder import panels, titles, write_ladder
from disca_rt.measure.machine import this_machine
from disca_rt.measure.memory import memory_by_source
from disca_rt.measure.ran_plans import with_plans
from disca_rt.measure.random_models import random_runtime, with_other
from disca_rt.measure.record import Record, read_records, write_records
from disca_rt.measure.rivals import Rivals
from disca_rt.measure.session import Session
from disca_rt.measure.steps import Steps, Subject, shortened
from disca_rt.measure.suite import Chosen, Suite
from disca_rt.measure.workloads import (
    PRESETS,
    Workload,
    get_workload,
    latent_shape,
    random_conditioning,
)
from disca_rt.pipeline.fit import DEFAULT_GUIDANCE
from disca_rt.schedule import PRESETS as SCHEDULES
from disca_rt.schedule import preset
from disca_rt.tiny.config import TINY
from disca_rt.work.flops import image_tokens
from disca_rt.work.memory import Need, footprint
from refusal import refusal

CPU = torch.device("cpu")
SMALL = {"hidden": 64, "heads": 2, "rope": (8, 12, 12), "text_dim": 32}
SMALL_10 = replace(MODELS["hunyuan-video-meanflow"], double=2, single=3, text_dim_2=24, **SMALL)
SMALL_15 = replace(
    MODELS["hunyuan-video-1.5-meanflow"],
    **(SMALL | {"double": 4, "byt5_dim": 20, "byt5_hidden": 40, "vision_dim": 28}),
)
FEW = Workload("few", "", (0, 0, 0), text=5, byt5=3, vision=4)


def subject(
    config: DiTConfig,
    dtype: torch.dtype = torch.float32,
    policy: str = "disca",
    fp8: str | None = None,
) -> Subject:
    latents = (config.in_channels, 3, 4, 6)
    runtime = random_runtime(config, CPU, dtype, fp8=fp8)
    given = random_conditioning(config, FEW, latents)
    return Subject(runtime, given, latents, policy, preset(4, 5.0, (0, 2)))


def guided(policy: str) -> Subject:
    """Subject of a base model, with two passes a step."""
    config = replace(SMALL_10, guidance_embed=False, meanflow=False)
    made = subject(config, policy=policy)
    return replace(made, negative=random_conditioning(config, FEW, made.latent_shape, seed=2))


FAMILIES = pytest.mark.parametrize("config", [SMALL_10, SMALL_15], ids=["1.0", "1.5"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@FAMILIES
def test_random_weights_keep_values_in_size(config: DiTConfig, dtype: torch.dtype) -> None:
    """Root mean square from a tenth to ten, after every block of both kinds of step."""
    made = subject(replace(config, double=20, single=40 if config.single else 0), dtype)
    rms = []

    def note(module: object, args: object, stream: tuple) -> None:
        parts = [part.x + (0 if part.branch is None else part.branch) for part in stream]
        rms.extend(part.float().square().mean().sqrt().item() for part in parts)

    for block in [*made.runtime.dit.blocks, *made.runtime.predictor.modules()]:
        if type(block).__name__.endswith("StreamBlock"):
            block.register_forward_hook(note)
    assert torch.isfinite(made.sample().latents).all()
    assert 0.1 < min(rms) <= max(rms) < 10


def test_random_weights_are_alike_for_a_seed_and_differ_within_a_model() -> None:
    one, two = (random_runtime(SMALL_10, CPU, torch.float32).dit.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    weights = [tensor for tensor in one.values() if tensor.shape == (448, 64)]
    assert not torch.equal(*weights[:2])


@pytest.mark.parametrize("fp8", [None, "weights"])
def test_other_ops_and_attention_share_the_weights(fp8: str | None) -> None:
    """Weights are shared, and counted by memory."""
    made = subject(SMALL_10, fp8=fp8)
    other = with_other(made.runtime, "reference", "math")
    ours, theirs = made.runtime.dit.state_dict(), other.dit.state_dict()
    assert (torch.float8_e4m3fn in {each.dtype for each in ours.values()}) == (fp8 is not None)
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    torch.testing.assert_close(Steps(made).full(), Steps(replace(made, runtime=other)).full())
    predictor = made.runtime.predictor.config
    need = Need(SMALL_10, predictor, (3, 4, 6), 5, 4, fp8=fp8)
    assert memory_by_source(made)["weights"] == footprint(need).weights


def test_diffusers_models_share_the_weights() -> None:
    pytest.importorskip("diffusers")
    replacing = replace(SMALL_10, token_replace=True)
    for config in (SMALL_10, replacing, replace(SMALL_15, byt5_hidden=2048)):
        weights = diffusers_model(config).state_dict()
        again = diffusers_model(config, weights=weights).state_dict()
        assert all(weights[name].data_ptr() == again[name].data_ptr() for name in weights)


@pytest.mark.parametrize("policy", ["full", "disca", "reuse", "taylor", "hermite"])
@pytest.mark.parametrize(
    "make",
    [
        partial(subject, SMALL_10),
        partial(subject, SMALL_15),
        guided,
        partial(subject, replace(SMALL_10, token_replace=True)),
    ],
    ids=["1.0", "1.5", "two passes", "a clean first frame"],
)
def test_both_kinds_of_step_are_those_of_a_sample(
    make: Callable[..., Subject], policy: str
) -> None:
    def sampled(subject: Subject, latents: torch.Tensor) -> torch.Tensor:
        given = {name: getattr(subject, name) for name in ("schedule", "policy", "negative")}
        return subject.runtime.sample(subject.conditioning, latents=latents, **given).latents

    made = make(policy=policy)
    one, two = (replace(made, schedule=preset(count, 5.0, (0,))) for count in (1, 2))
    alone, steps = Steps(one), Steps(two)
    assert not alone.has_predicted
    torch.testing.assert_close(alone.full(), sampled(one, alone.latents))
    one_pass = Steps(replace(one, negative=None)).full()
    assert torch.equal(alone.full(), one_pass) == (made.negative is None)
    assert steps.has_predicted == (policy != "full")
    if steps.has_predicted:
        noise, steps._latents = steps.latents, steps.full()
        torch.testing.assert_close(steps.predicted(), sampled(two, noise))


def test_two_passes_are_twice_the_work() -> None:
    made = guided("disca")
    two, one = (
        Suite(FEW, each, Chosen("reference", "sdpa"))
        for each in (made, replace(made, negative=None))
    )
    assert two.flops == tuple(2 * each for each in one.flops)
    assert two.comparison("full-step").shape["passes"] == 2
    assert "passes" not in one.comparison("full-step").shape
    assert memory_by_source(made)["cache"] == 2 * memory_by_source(one.subject)["cache"]
    with torch.inference_mode():
        for contender in two.comparison("sample").contenders:
            contender.run()


def test_a_policy_that_measures_counts_what_ran() -> None:
    made = subject(SMALL_10, policy="easycache:thresh=0.5,ret_steps=1")
    made = replace(made, schedule=preset(8, 5.0))
    assert made.plans is None
    suite = Suite(FEW, made, Chosen("reference", "sdpa"))
    comparison = suite.comparison("sample")
    assert comparison.shape["schedule"] == "8 steps, full ones as measured"
    with torch.inference_mode():
        baseline, record = measure(comparison, 2, this_machine(), 1)
    assert record.contender.endswith(": 8 steps, full ones as measured")
    plans: list[StepPlan] = []
    made.sample(on_step=lambda event: plans.append(event.plan))
    full = sum(plan.label == FULL for plan in plans)
    assert 0 < full < 8, "the test needs steps of both kinds"
    found = with_plans(record, made, suite.ran[record.contender])
    assert found.flops == made.flops_of(plans) < record.flops
    assert found.flop_ratio == pytest.approx(found.flops / baseline.flops)
    assert found.note == f"{full} full steps of 8, measured"
    assert with_plans(baseline, made, suite.ran[baseline.contender]) == baseline


def test_rivals_guide_by_two_passes() -> None:
    pytest.importorskip("diffusers")
    made = guided("disca")
    steps, model = Steps(made), diffusers_model(made.runtime.config)
    both = [diffusers_step(model, each)(steps.latents, steps.scalars()) for each in made.passes]
    mixed = both[1] + DEFAULT_GUIDANCE * (both[0] - both[1])
    torch.testing.assert_close(steps.euler(both), steps.euler([mixed]))
    assert not torch.equal(steps.euler(both), steps.euler(both[:1]))
    ((_, cached),) = Rivals(made).samples().values()
    with pytest.raises(Unavailable, match="two passes"):
        cached()


def test_memory_by_source_by_hand() -> None:
    memory = memory_by_source(subject(SMALL_10))
    assert memory["cache"] == (3 * 2 * 3 + 5) * 64 * 4
    assert memory["activations"] > 0
    assert memory["graphs"] == 0


def test_values_that_are_not_finite_are_refused() -> None:
    made = subject(SMALL_10)
    made.runtime.dit.final_layer.linear.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        memory_by_source(made)


def test_shortened_schedules_keep_both_kinds() -> None:
    assert shortened(SCHEDULES["disca-n4"]) == preset(5, 5.0, (0, 2))
    assert shortened(preset(50, 7.0)) == preset(2, 7.0)
    assert shortened(preset(1, 7.0)) == preset(1, 7.0)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("704x704x129", "1.0 704x704x129"),
        ("720p", "1.0 1280x720x129"),
        ("480p-i2v", "1.5 848x480x121"),
    ],
)
def test_presets_are_the_shapes_of_the_kernels(name: str, shapes: str) -> None:
    workload = PRESETS[name]
    image = image_tokens(MODELS[workload.model], latent_shape(workload))
    assert (image, workload.tokens) == (REAL[shapes].img, REAL[shapes].txt)


def test_any_size_of_any_model() -> None:
    assert get_workload("640x480x61").model == "hunyuan-video-meanflow"
    fifteen = get_workload("640x480x61", "hunyuan-video-1.5")
    assert (fifteen.vision, fifteen.size) == (729, (640, 480, 61))
    assert latent_shape(get_workload("8x12x3", "tiny")) == (12, 3, 6, 4)
    assert get_workload("720p", "hunyuan-video").size == (1280, 720, 129)


@pytest.mark.parametrize("attention", ["sdpa", "math"])
def test_graphs_beside_what_is_not_captured(attention: str) -> None:
    suite = Suite(FEW, subject(SMALL_10), Chosen("reference", attention), recording)
    for benchmark in ("full-step", "predicted-step", "sample-graphs"):
        contenders = {each.name: each for each in suite.comparison(benchmark).contenders}
        (name,) = suite.captured
        plain, captured = contenders[name.removesuffix(", graphs")], contenders[name]
        assert {name, plain.name} - {"predicted step, disca"} <= suite.ours
        assert captured.flops == plain.flops
        assert suite.captured[name].captures == 0
        with torch.inference_mode():
            (captured.warm_up or captured.run)()
            before = suite.captured[name].captures
            captured.run()
        assert suite.captured[name].captures == before >= 1, "a timed run captures nothing"
    assert suite.times[name][0].keys() == {"conditioning", "4 steps"}


def recording() -> GraphRunner:
    return GraphRunner(CPU, recorded.record)


@pytest.mark.parametrize("make", [partial(subject, SMALL_10), guided], ids=["one", "two passes"])
@pytest.mark.parametrize("policy", ["disca", "taylor"])
def test_captured_steps_give_the_same(make: Callable[..., Subject], policy: str) -> None:
    made, graphs = make(policy=policy), recording()
    plain, captured = Steps(made), Steps(made, graphs)
    for _ in range(3):
        assert torch.equal(captured.full(), plain.full())
        assert torch.equal(captured.predicted(), plain.predicted())
    assert graphs.captures == 2


@pytest.mark.parametrize(("longest", "captures"), [(0.0, 2), (1e14, 1)])
def test_a_long_sample_is_captured_by_steps(
    longest: float, captures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disca_rt.measure.suite.LONG", longest)
    suite = Suite(FEW, subject(SMALL_10), Chosen("reference", "sdpa"), recording)
    contender = suite.comparison("sample-graphs").contenders[-1]
    contender.warm_up()
    (runner,) = suite.captured.values()
    assert runner.captures == captures
    assert set(suite.shortly) == {suite.sample_name, contender.name}


def test_the_union_of_overlapping_kernels() -> None:
    assert union([(5, 7), (0, 2), (1, 3), (5.5, 6)]) == [(0, 3), (5, 7)]
    assert union([]) == []


QUICK = [
    "bench",
    "8x8x1",
    "--model",
    "tiny",
    "--ops",
    "reference",
    "--attention",
    "sdpa",
    "--quick",
]
RESULTS = pytest.mark.xdist_group("quick run")  # by one worker for all tests
Bench = Callable[..., list[Record]]


def run_bench(out: Path, *flags: str | Path, code: int = 0) -> list[Record]:
    assert main([*QUICK, *map(str, flags), "--out", str(out)]) == code
    return read_records(out)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Function that runs a quick bench with more flags, and returns the lines of its file."""
    return partial(run_bench, tmp_path / "bench.jsonl")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a whole quick run."""
    out = tmp_path_factory.mktemp("bench") / "new" / "bench.jsonl"
    run_bench(out)
    return out


@RESULTS
def test_a_quick_run_writes_everything(results: Path) -> None:
    records = read_records(results)
    assert [(record.benchmark, record.contender) for record in records] == [
        ("matrix product", "matrix product"),
        ("copy", "copy"),
        ("full step, tiny 8x8x1", "eager reference"),
        ("full step, tiny 8x8x1", "eager reference, flash attention"),
        ("predicted step, tiny 8x8x1", "full step"),
        ("predicted step, tiny 8x8x1", "predicted step, disca"),
        ("sample, tiny 8x8x1", "20 full steps"),
        ("sample, tiny 8x8x1", "disca: 8 full, 12 predicted"),
    ]
    assert all(record.samples == len(record.seconds) == 2 for record in records)
    for record in records[2:]:
        assert record.weights == "embedded"
        assert record.mfu == pytest.approx(record.gflops_per_s / records[0].gflops_per_s)
    full, predicted = records[4:6]
    assert records[6].flops == 20 * full.flops
    assert records[7].flops == 8 * full.flops + 12 * predicted.flops


def test_a_run_in_fp8_says_so_and_leaves_rivals_out(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    records = bench("--fp8-weights", "--random", "--steps", "2", "--only", "sample")
    records = [record for record in records if record.weights]
    assert {record.weights for record in records} == {"random FP8"}
    need = footprint(Need(TINY, predictor_config(TINY), (1, 4, 4), 16, 4, "full", fp8="weights"))
    assert records[-1].memory["weights"] == need.weights
    assert f"random FP8 weights: about {need}" in capsys.readouterr().out
    args = build_parser().parse_args([*QUICK[:-1], "--fp8-weights"])
    chosen = _chosen(args, SimpleNamespace(ranks=1), SimpleNamespace(graphs=None))
    assert chosen == ["full-step", "predicted-step", "sample"]


@RESULTS
def test_a_sample_says_where_time_and_memory_went(results: Path) -> None:
    sample = read_records(results)[-1]
    assert list(sample.stages) == ["conditioning", "full steps", "predicted steps", "decode"]
    assert all(len(seconds) == 2 for seconds in sample.stages.values())
    assert list(sample.memory) == ["weights", "cache", "activations", "graphs"]
    assert 0 < sample.busy <= 1
    for total, *stages in zip(sample.seconds, *sample.stages.values(), strict=True):
        assert sum(stages) <= total


@RESULTS
def test_the_ladder_is_beside_the_lines(results: Path) -> None:
    pytest.importorskip("matplotlib")
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    drawn = panels(read_records(results))
    assert len(drawn) == 3
    assert all(panel[0].median_s == max(r.median_s for r in panel) for panel in drawn)


@RESULTS
def test_panels_that_would_have_one_title_say_what_differs(results: Path) -> None:
    (panel, *_), other = panels(read_records(results)), []
    for record in panel:
        shape = record.shape | {"attention": "fa2"}
        other.append(replace(record, shape=shape, threads=record.threads + 1))
    mine, theirs = titles([panel, other])
    assert titles([panel]) == [mine.partition(", attention")[0]]
    assert mine.endswith(f", attention {panel[0].shape['attention']}, threads {panel[0].threads}")
    assert theirs.endswith(f", attention fa2, threads {panel[0].threads + 1}")


@RESULTS
def test_without_matplotlib_all_else_is_there(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="needs matplotlib"):
        write_ladder(tmp_path / "ladder.png", read_records(results))
    assert list(tmp_path.iterdir()) == []


def test_a_regression_fails_and_the_lines_are_kept(
    tmp_path: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier, only = tmp_path / "before.jsonl", ("--only", "full-step", "--samples", "5")
    records = run_bench(earlier, *only)

    def baseline(factor: float) -> tuple[str | Path, ...]:
        """Flags that compare with an earlier run whose steps took `factor` times as long."""
        planted = [
            replace(
                record,
                median_s=record.median_s * factor,
                seconds=[each * factor for each in record.seconds],
                cpu_seconds=[each * factor for each in record.cpu_seconds],
            )
            for record in records[2:]
        ]
        write_records(earlier, [*records[:2], *planted])
        capsys.readouterr()
        return *only, "--baseline", earlier

    assert len(bench(*baseline(1e-3), code=2)) == 4
    said = capsys.readouterr()
    assert said.err.startswith(f"disca-rt: error: slower than {earlier} beyond the noise: full st")
    assert len(said.err.splitlines()) == 1
    assert "**slower**" in said.out
    bench(*baseline(1e-3), "--samples", "2")
    assert "No verdict on 2 of 2, with too few samples" in capsys.readouterr().out
    bench(*baseline(1e3))


def test_a_contender_that_does_not_fit_says_what_would(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(self: Steps) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.00 GiB.")

    monkeypatch.setattr(Steps, "full", step)
    bench("--only", "full-step", code=2)
    told = [line for line in capsys.readouterr().out.splitlines() if "MemoryError" in line]
    assert any("(MemoryError: needs about " in line and "would fit: " in line for line in told)


@RESULTS
def test_a_rerun_replaces_its_own_lines_only(results: Path, tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "bench.jsonl").write_bytes(results.read_bytes())
    again = bench("--only", "full-step", "--samples", "1")
    counts = [(record.benchmark, record.samples) for record in again]
    assert counts.count(("full step, tiny 8x8x1", 1)) == 2
    assert counts.count(("sample, tiny 8x8x1", 2)) == 2
    assert len(counts) == 8
    other = bench("--only", "full-step", "--attention", "math")
    chosen = [r.shape["attention"] for r in other if r.benchmark.startswith("full")]
    assert chosen == [*["sdpa"] * 2, *["math"] * 3], "other work stays"


def test_an_interruption_keeps_what_was_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Session.run

    def interrupted(self: Session, comparison: object, *finish: object) -> list[Record]:
        if not comparison.name.startswith("predicted"):
            return run(self, comparison, *finish)
        calls = []

        def stop() -> None:
            calls.append(1)
            if len(calls) == 4:  # one of each warms up, then rounds
                raise KeyboardInterrupt

        contenders = [replace(comparison.contenders[0], run=stop)]
        return run(self, replace(comparison, contenders=contenders), *finish)

    monkeypatch.setattr(Session, "run", interrupted)
    records = bench("--samples", "9", code=130)
    assert "interrupted; what was measured until then is in" in capsys.readouterr().err
    assert [record.samples for record in records] == [9, 9, 9, 9, 2]
    assert records[-1].benchmark == "predicted step, tiny 8x8x1"


def test_ours_that_fails_fails_the_run_and_the_rest_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Steps) -> None:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(Steps, "full", broken)
    records = bench(code=2)
    said = capsys.readouterr()
    assert "no eager reference (RuntimeError: no kernel image)" in said.out
    assert said.err.endswith("for the reason above: full-step: eager reference\n")
    assert {record.benchmark for record in records} > {"sample, tiny 8x8x1"}


@pytest.mark.slow
def test_rivals_that_are_here_run_and_others_are_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    only = ["--only", "rivals", "--only", "sample-rivals"]
    records = bench("--random", "--preset", "disca-n4", *only)
    assert [record.contender for record in records[2:]] == [
        "eager reference",
        "eager reference, torch.compile",
        "diffusers",
        "diffusers, torch.compile",
        "disca: 8 full, 12 predicted",
    ]
    assert "no diffusers with cache-dit: 8 full (Unavailable: needs" in capsys.readouterr().out


@FAMILIES
def test_cache_dit_computes_the_full_steps_of_every_sample(config: DiTConfig) -> None:
    """Blocks computed: all of theirs in a full step, the first of each kind in a predicted one."""
    pytest.importorskip("cache_dit")
    made = replace(subject(replace(config, byt5_hidden=2048)), schedule=SCHEDULES["disca-n4"])
    ((_, sample),) = Rivals(made).samples().values()
    blocks, computed = 0, []

    def count(module: torch.nn.Module, *_: object) -> None:
        nonlocal blocks
        blocks += type(module).__name__.endswith("TransformerBlock")
        if type(module).__name__.endswith("Transformer3DModel"):
            computed.append(blocks)
            blocks = 0

    counting = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        sample()
        sample()
    finally:
        counting.remove()
    kinds = 1 + (config.single > 0)
    every = config.double + config.single
    assert computed == 2 * [every if plan.label == FULL else kinds for plan in made.plans]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["900p"], "the workload must be one of"),
        (["64x64"], "the workload must be one of"),
        (["704x704x128"], "frames must be 4n+1, got 128"),
        (["8x9x1", "--model", "tiny"], "height must be divisible by 4, got 9"),
        (["--model", "wan"], "--model must be one of"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--only", "decode"], "invalid choice"),
        (["--out", "bench.csv"], "--out must end in .jsonl"),
        (["--ladder", "bars.pdf"], "--ladder must end in .png"),
        (["--baseline", "none.jsonl"], "--baseline none.jsonl is not a file"),
        (["--baseline", "of_another.jsonl"], "of_another.jsonl: line 1 is no result"),
        (["--out", "of_another.jsonl"], "of_another.jsonl: line 1 is no result"),
        (["--dit", "no/such.safetensors"], "no/such.safetensors"),
        (["--predictor", "p.safetensors"], "--predictor goes with --dit"),
        (["--dit", "d.safetensors", "--random"], "give either --dit or --random"),
        (["--attention", "fa9"], "attention backend must be one of"),
        (["--ops", "cutlass"], "ops must be one of"),
        (["--policy", "teecache"], "policy must be one of"),
        (["--preset", "fast"], "preset must be one of"),
        (["--device", "tpu"], "--device must be"),
        (["--dtype", "fp8"], "--dtype must be one of"),
        (["99996x99996x9999", "--model", "tiny"], "out of memory: needs about"),
        (["--only", "sample-graphs"], "--only sample-graphs needs --graphs and a CUDA device"),
        (["--cfg"], "--cfg: this model embeds its guidance"),
        (["--fp8-weights", "--only", "rivals"], "--only rivals: rivals keep no FP8 weights"),
        (["--graphs"], "--graphs needs a CUDA device, got --device cpu"),
        (["--head-chunks", "2"], "--head-chunks is for several ranks"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("of_another.jsonl").write_bytes(b"\xff\x90\n")
    assert message in refusal(["bench", "--quick", *arguments], capsys)


@pytest.mark.parametrize("place", ["transformer", "."])
def test_the_dit_of_a_folder_is_measured_whatever_its_size(place: str, tmp_path: Path) -> None:
    """Memory and FLOPs are those of the file, not of the published model that it is one of."""
    pytest.importorskip("diffusers")
    import small_parts

    folder = tmp_path / "model"
    small_parts.pipeline_10().save_pretrained(folder)
    out = tmp_path / "bench.jsonl"
    command = ["bench", "64x48x9", "--model", "hunyuan-video", "--quick", "--only", "full-step"]
    command += ["--dit", str(folder / place), "--dtype", "float32", "--out", str(out)]
    assert main(command) == 0
    records = [record for record in read_records(out) if record.flops and record.weights]
    assert {record.weights for record in records} == {"transformer" if place != "." else "model"}
    assert all(0 < record.flops < 1e9 for record in records)
    assert all(record.memory["weights"] < 1e6 for record in records if record.memory)


def test_needs_nothing_but_pytorch(tmp_path: Path) -> None:
    """Run as on a machine with a GPU and little else: real weights, no other package."""
    absent = "numpy", "safetensors", "rich", "PIL", "av", "matplotlib", "diffusers"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from disca_rt.cli import main\n"
        f"sys.exit(main({[*QUICK, '--out', str(tmp_path / 'b.jsonl')]}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no ladder: the ladder needs matplotlib" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert {line["weights"] for line in lines[2:]} == {"embedded"}
