"""Every benchmark runs, on the smallest shapes with one sample. No test looks at a time."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import against_diffusers, caches, embedded, host, ops, rivals
from bench.against_diffusers import EMBEDDED, MID_10, MID_15, StepShape
from bench.embedded import VideoSize
from bench.run import ON_CPU, main
from disca_rt.instruments.ceiling_work import ceiling_work
from disca_rt.kernels import reference
from disca_rt.kernels.op_table import OP_ROWS
from disca_rt.measure import ceilings as measure_ceilings
from disca_rt.measure.harness import Comparison, measure
from disca_rt.measure.machine import this_machine
from disca_rt.measure.record import Record, read_records

SMALLEST = VideoSize(frames=1, height=4, width=4)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def one_sample(comparison: Comparison) -> list[Record]:
    with torch.inference_mode():
        return measure(comparison, 1, this_machine(), torch.get_num_threads())


def smaller(shape: StepShape) -> StepShape:
    config = replace(shape.config, double=1, single=min(shape.config.single, 1))
    config = replace(config, hidden=64, heads=2, rope=(8, 12, 12), text_dim=32)
    latents = (*shape.latent_shape[:1], 1, 2, 2)
    return StepShape(config, latents, replace(shape.tokens, text=3))


@pytest.mark.parametrize(
    ("build", "contenders"),
    [
        (embedded.steps, 2),
        (embedded.samples_with_guidance, 3),
        (embedded.samples_without_guidance, 2),
    ],
)
def test_embedded(build: Callable[[VideoSize], Comparison], contenders: int) -> None:
    records = one_sample(build(SMALLEST))
    assert len(records) == contenders
    assert all(record.flops > 0 for record in records)
    assert all(record.flop_ratio < 1 for record in records[1:])


def test_host() -> None:
    calls, *steps = one_sample(host.steps(replace(host.BIG, double=1, single=1)))
    assert len(steps) == 4
    assert {step.baseline for step in steps} == {calls.contender}


def test_static_caches() -> None:
    few = "fora:fresh_threshold=4", "disca:interval=4"
    full, *cached = one_sample(caches.samples("distilled", few, (12, 1, 4, 4)))
    assert [each.contender for each in cached] == [*few]
    assert [each.goal * caches.OF_THEORY for each in cached] == [
        pytest.approx(each.flops / full.flops) for each in cached
    ]


@pytest.mark.parametrize("name", caches.SUBJECTS)
def test_static_caches_have_plans_before_a_run(name: str) -> None:
    full = caches.subject(name, "full", (12, 1, 4, 4))
    assert all(replace(full, policy=each).plans is not None for each in caches.methods(name))


def test_where_the_time_of_a_cached_sample_goes() -> None:
    clock = caches.Clock("distilled", 1, (12, 1, 4, 4))
    row = clock.told("reuse:interval=4")
    cached = caches.subject("distilled", "reuse:interval=4", (12, 1, 4, 4))
    computed, reused = (cached.flops_of([plan]) for plan in cached.plans[:2])
    assert row.cheap_flops == reused / computed
    assert row.by_flops == pytest.approx(20 / (5 + 15 * row.cheap_flops))
    assert row.by_flops >= row.by_both > 0
    assert min(row.actual, row.full, row.cheap) > 0
    with pytest.raises(ValueError, match="policy teacache measures"):
        clock.told("teacache")


def test_bytes_beyond_a_share_of_a_full_step_count() -> None:
    moved = caches.MovedBytes("distilled", (12, 1, 4, 4))
    full, fora = moved("full")[1:3], moved("fora:fresh_threshold=3")[1:3]
    assert full[0] == full[1]
    kept = caches.subject("distilled", "fora:fresh_threshold=3", (12, 1, 4, 4)).cache_bytes
    assert kept < fora[1] < full[0], "a step reads what is kept, and adds it to the tokens"


def test_a_sample_has_the_flops_of_its_steps() -> None:
    full, predicted = (contender.flops for contender in embedded.steps().contenders)
    twenty, disca = (each.flops for each in embedded.samples_without_guidance().contenders)
    assert (twenty, disca) == (20 * full, 8 * full + 12 * predicted)


@pytest.mark.parametrize("shape", [EMBEDDED, MID_10, MID_15], ids=lambda shape: shape.tokens.name)
def test_against_diffusers(shape: StepShape) -> None:
    pytest.importorskip("diffusers")
    comparison = against_diffusers.full_step(smaller(shape))
    assert comparison.relative_difference <= against_diffusers.TOLERANCE
    assert [record.flop_ratio for record in one_sample(comparison)] == [1, 1, 1]


def test_another_computation_is_not_timed() -> None:
    with pytest.raises(RuntimeError, match="nothing was timed"):
        against_diffusers.check_equal(lambda: torch.ones(3), lambda: torch.ones(3) * 1.001)
    with pytest.raises(RuntimeError, match="nothing was timed"):
        against_diffusers.check_equal(lambda: torch.full((3,), torch.nan), lambda: torch.ones(3))


def test_the_command_writes_lines_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ON_CPU, "predicted-step", partial(embedded.steps, SMALLEST))
    out = tmp_path / "out.jsonl"
    main(["--only", "predicted-step", "--samples", "1", "--threads", "2", "1", "--out", str(out)])
    records = read_records(out)
    assert [record.threads for record in records] == [2, 2, 1, 1]
    assert {record.samples for record in records} == {1}
    assert "| predicted step | 1 | full step |" in capsys.readouterr().out


def test_without_diffusers_its_rows_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    out = tmp_path / "out.jsonl"
    main(["--only", "full-step-10", "--out", str(out)])
    assert "full-step-10: skipped, needs diffusers" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted")
def test_every_op_is_measured_against_a_copy(capsys: pytest.CaptureFixture[str]) -> None:
    """Dry run of what a GPU will do; torch.compile is left out by an eager backend."""
    with patch("torch.compile", lambda function, **_: function):
        main(["--device", "cuda", "--dry-run", "--samples", "1", "--only", "ops: "])
    table = capsys.readouterr().out
    measured = [op for op in fused_ops() if op != ops.ONCE]
    for op in measured:
        assert f"| {op}, small | 2 | ours" in table
    moved = [op for op in measured if not OP_ROWS[op].is_product]
    assert table.count("| copy |") == len(moved)
    assert table.count("| ≤ 1.11111 |") == len(moved)
    assert table.count("| concatenated |") == 3
    for contender in ("ours, epilogue", "torch.compile"):
        assert f"| linear_gelu, small | 2 | {contender} |" in table


def test_a_rival_that_fails_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise AssertionError("dtype")

    works = {"fine": lambda: lambda x: lambda: x}
    with patch.dict(rivals.RIVALS, {"op": {"broken": broken, **works}}):
        assert list(rivals.rivals("op", (1,))) == ["fine"]
    assert "op: no broken (AssertionError: dtype)" in capsys.readouterr().out


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: object) -> None:
    """`name` and the packages above it, as if installed."""
    above = name.split(".")[:-1]
    for end in range(1, len(above) + 1):
        monkeypatch.setitem(sys.modules, ".".join(above[:end]), SimpleNamespace())
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**contents))


def test_a_liger_norm_is_modulated_by_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    function = SimpleNamespace(
        apply=lambda x, weight, bias, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    )
    fake_module(monkeypatch, "liger_kernel.ops.layer_norm", LigerLayerNormFunction=function)
    x, vectors = torch.randn(1, 7, 64), torch.randn(1, 192).chunk(3, dim=-1)
    run = rivals.rivals("layer_norm_modulate", (x, *vectors[:2]))["Liger-Kernel"]
    torch.testing.assert_close(run(), reference.layer_norm_modulate(x, *vectors[:2]))
    assert rivals.rivals("layer_norm_modulate", (x.expand(2, -1, -1), *vectors[:2])) == {}


def test_rotary_rivals_get_tables_in_the_tokens_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, **_: bool) -> Tensor:
        seen.append((x.dtype, cos.dtype, sin.dtype))
        return x

    function = SimpleNamespace(apply=lambda x, weight, eps: x)
    fake_module(monkeypatch, "flash_attn.ops.triton.rotary", apply_rotary=apply_rotary)
    fake_module(monkeypatch, "liger_kernel.ops.rms_norm", LigerRMSNormFunction=function)
    fake_module(monkeypatch, "quack.rmsnorm", rmsnorm_fwd=lambda x, weight, eps: x)
    x = torch.randn(1, 7, 2, 8).bfloat16()
    tables = torch.randn(8), torch.randn(8), torch.randn(5, 4), torch.randn(5, 4)
    assert len(rivals.rivals("rms_norm_rope", (x, *tables))) == 2
    assert seen == [(torch.bfloat16,) * 3] * 2


def fused_ops() -> list[str]:
    return [op for op, row in OP_ROWS.items() if row.arguments]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "--device cuda: PyTorch sees no GPU; --dry-run tries" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--only", "typo"], ["--samples", "0"], ["--threads", "-1"]])
def test_bad_flags_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_a_sustained_product_goes_on_for_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    work = ceiling_work(torch.device("cpu"), torch.float32, is_small=True)
    products: list[int] = []
    counted = work._replace(product=lambda: products.append(1) or time.sleep(0.002))
    monkeypatch.setattr(measure_ceilings, "ceiling_work", lambda *args: counted)
    monkeypatch.setattr(measure_ceilings, "SUSTAINED_S", 0.02)
    (contender,) = measure_ceilings.sustained(torch.device("cpu"), torch.float32).contenders
    products.clear()
    contender.run()
    assert 2 <= len(products) <= 10
    assert contender.flops == len(products) * work.flops
