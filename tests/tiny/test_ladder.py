"""The ladder from weights to table: on a model made of noise, so that only the counting matters."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from disca_rt.cli import main
from disca_rt.commands.evaluate import SHOWN
from disca_rt.config import predictor_config
from disca_rt.instruments.peak_memory import PeakMemory
from disca_rt.models.build import build_predictor
from disca_rt.schedule import preset
from disca_rt.tiny.config import TINY
from disca_rt.tiny.ladder import BASE, CFG, COMPARISONS, MEANFLOW, RESTRICTED, RESTRICTED_04, RUNGS
from disca_rt.tiny.report import markdown
from disca_rt.tiny.rung_cost import rung_flops
from disca_rt.tiny.statistics import mean_interval, paired_difference
from disca_rt.tiny.workers import Workers
from disca_rt.train.initialise import fresh_dit, initialise
from disca_rt.weights.save import save_safetensors
from refusal import refusal

SMALL = replace(TINY, hidden=32, heads=2, rope=(4, 6, 6), double=1, single=2)
VARIANTS = {
    BASE: SMALL,
    CFG: replace(SMALL, guidance_embed=True),
    MEANFLOW: replace(SMALL, guidance_embed=True, meanflow=True),
    RESTRICTED: replace(SMALL, guidance_embed=True, meanflow=True),
    RESTRICTED_04: replace(SMALL, guidance_embed=True, meanflow=True),
}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    for seed, (name, config) in enumerate(VARIANTS.items()):
        dit = fresh_dit(config, seed)
        torch.nn.init.normal_(dit.final_layer.linear.weight, std=0.3)
        save_safetensors(folder / f"{name}.safetensors", dit.state_dict(), torch.float32, config)
    for name in ("predictor", "predictor-without-gan", "predictor-on-meanflow"):
        predictor = build_predictor(predictor_config(SMALL), device="cpu")
        initialise(predictor, seed=1)
        path = folder / f"{name}.safetensors"
        save_safetensors(path, predictor.state_dict(), torch.float32, VARIANTS[RESTRICTED])
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so that by default nothing is spawned
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disca_rt.tiny.rung_cost.ROUNDS", 1)


def test_every_rung_gets_a_row_and_every_comparison(
    ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--prompts", "2", "--ladder", str(ladder), "--out", str(tmp_path)]
    assert main(["evaluate", *flags]) == 0
    page = (tmp_path / "ladder.md").read_text()
    assert page in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "ladder.jsonl").read_text().splitlines()]
    rungs = {line["name"]: line for line in lines if line["kind"] == "rung"}
    assert list(rungs) == [rung.name for rung in RUNGS]
    assert all(page.count(f"| {rung.name} |") >= len(rung.tables) >= 1 for rung in RUNGS)
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## 1. Ways of sampling",
        "## 2. MeanFlow and Restricted MeanFlow",
        "## 3. What DisCa needs",
        "## 4. Work and memory",
        "## Comparisons",
    ]
    assert sum(line["kind"] == "clip" for line in lines) == 2 * len(RUNGS)
    assert sum(line["kind"] == "comparison" for line in lines) == len(COMPARISONS)
    for name, full, predicted in (
        ("original, 50 steps x 2", 100, 0),
        ("cfg-distilled, 20 steps", 20, 0),
        ("DisCa N=4", 8, 12),
        ("DisCa N=2", 13, 7),
        ("Taylor of order 1, 8 full steps", 8, 12),
    ):
        assert (rungs[name]["full_steps"], rungs[name]["predicted_steps"]) == (full, predicted)
    assert rungs["original, 50 steps x 2"]["speedup_theoretical"] == 1
    assert {n for n, e in rungs.items() if "speedup_measured" in e} == {
        rung.name for rung in RUNGS if 4 in rung.tables
    }
    assert rungs["original, 50 steps x 2"]["speedup_measured"] == 1
    assert rungs["DisCa N=4"]["speedup_measured"] > 0
    assert lines[0]["seconds"] > 0
    assert rungs["restricted-meanflow, 20 steps"]["relative_l2"]["mean"] == 0
    assert rungs["reuse, 8 full steps"]["relative_l2"]["mean"] > 0
    assert "relative_l2" not in rungs["original, 10 steps x 2"]
    assert rungs["cfg-distilled, 50 steps"]["relative_l2"]["mean"] > 0  # its reference is later
    assert rungs["cfg-distilled, 50 steps"]["teacher_l2"]["mean"] == 0
    assert rungs["meanflow, 10 steps"]["teacher_l2"]["mean"] > 0
    tokens = 240 + 11  # of the image and of the prompt that memory is measured with
    assert rungs["DisCa N=4"]["cache_bytes"] == tokens * 32 * 4
    assert rungs["Taylor of order 1, 8 full steps"]["cache_bytes"] == 2 * tokens * 32 * 4
    assert rungs["DisCa N=4"]["peak_bytes"] > rungs["DisCa N=4"]["cache_bytes"]
    plain = rungs["restricted-meanflow, 20 steps"]["peak_bytes"]
    assert rungs["DisCa N=4"]["peak_bytes"] >= plain + tokens * 32 * 4


def test_orderings_are_met_missed_or_open() -> None:
    def row(first: tuple[float, float], distance: tuple[float, float], margin: float) -> str:
        spans = {"semantic": first, "total": first, "relative_l2": distance}
        intervals = {n: {"mean": (a + b) / 2, "low": a, "high": b} for n, (a, b) in spans.items()}
        goal = {"first": "a", "second": "b", "distances": ["relative_l2"], "margin": margin}
        run = {"kind": "run", "prompts": 2, "device": "cpu", "torch": "2"}
        run |= {"processes": 1, "threads": 1, "seconds": 90.0}
        page = markdown([run, {"kind": "comparison", **goal, **intervals}])
        return page.splitlines()[-1]

    better = row((0.01, 0.03), (-0.2, -0.1), 0.0)
    assert better.startswith("| a | b | 2.0 [1.0, 3.0] | met |")
    assert better.endswith("| met |  |  |")
    worse = row((-0.03, -0.01), (0.1, 0.2), 0.0)
    assert worse.count("| missed |") == 2
    assert row((-0.01, 0.01), (-0.1, 0.1), 0.0).count("| open |") == 2
    within = row((-0.01, 0.01), (-0.2, -0.1), 0.02)
    assert "| b, less 2 points |" in within
    assert within.count("| met |") == 2


def test_missing_weights_are_told_before_anything_runs(
    ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ladder.iterdir():
        if path.stem != "predictor-on-meanflow":  # the last rung's
            (tmp_path / path.name).symlink_to(path)
    assert main(["evaluate", "--prompts", "2", "--ladder", str(tmp_path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "the ladder lacks" in told[0]
    assert "predictor-on-meanflow.safetensors" in told[0]


def test_processes_change_nothing_but_the_time(
    ladder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = preset(4, shift=5.0)
    shorter = [replace(rung, schedule=short) if rung.policy == "full" else rung for rung in RUNGS]
    monkeypatch.setattr("disca_rt.tiny.ladder.RUNGS", tuple(shorter))
    results = []
    for count in ("1", "2"):
        out = tmp_path / count
        flags = ["--prompts", "12", "--ladder", str(ladder), "--out", str(out), "--only", "reuse"]
        assert main(["evaluate", *flags, "--workers", count]) == 0
        lines = [json.loads(line) for line in (out / "ladder.jsonl").read_text().splitlines()]
        results.append([line for line in lines if line["kind"] == "clip"])
        assert_the_sheet_has(out / "ladder.png", rows=4)
    alone, shared = results
    assert [line["prompt"] for line in alone] == [line["prompt"] for line in shared]
    assert len(alone) == 4 * 12
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == other.keys()
        assert all(other[k] == pytest.approx(v, abs=1e-3) for k, v in one.items() if k != "prompt")


def assert_the_sheet_has(path: Path, rows: int) -> None:
    """The first rung, the teacher, the reference, and reuse, of SHOWN prompts each."""
    with Image.open(path) as sheet:
        assert sheet.height == rows * (240 // 3 + 6)
        assert sheet.width > SHOWN * 3 * 320 // 3


def test_a_worker_that_is_ended_is_told_in_one_line(ladder: Path) -> None:
    with Workers(2, [ladder], torch.device("cpu")) as workers:
        workers._pool.submit(os.kill, os.getpid(), 0).result()  # started
        for process in multiprocessing.active_children():
            process.terminate()
        with pytest.raises(ChildProcessError, match="choose fewer --workers"):
            workers.generate(RUNGS[0], ["a red circle moving left"] * 2)


def test_one_checkpoint_is_judged_alone(
    ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dit = str(ladder / f"{CFG}.safetensors")
    assert main(["evaluate", "--dit", dit, "--prompts", "2", "--out", str(tmp_path)]) == 0
    assert "| 50 steps | 50 | 0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompts", "1"], "--prompts must be at least 2, for an interval, got 1"),
        (["--prompts", "0"], "--prompts must be at least 2, for an interval, got 0"),
        (["--dit", "a.safetensors", "--only", "DisCa"], "--dit judges one checkpoint; leave out"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--prompts", "9", "--quick"], "give either --prompts or --quick"),
        (["--only", "teacache"], "--only 'teacache' is in no rung; they are"),
        (["--ladder", "nowhere"], "the ladder lacks nowhere/base.safetensors; run from the repo"),
    ],
)
def test_refusals_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(["evaluate", *flags, "--out", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


def test_flops_order_the_rungs() -> None:
    flops = {r.name: rung_flops(r, VARIANTS[r.dit], text_tokens=12) for r in RUNGS}
    assert flops["original, 50 steps x 2"] == 2 * 50 * rung_flops_of_one(BASE)
    assert (
        flops["reuse, 8 full steps"]
        < flops["DisCa N=4"]
        < flops["DisCa N=3"]
        < flops["DisCa N=2"]
        < flops["restricted-meanflow, 20 steps"]
    )
    assert flops["Taylor of order 1, 8 full steps"] == flops["reuse, 8 full steps"]


def rung_flops_of_one(dit: str) -> int:
    rung = replace(RUNGS[0], dit=dit, schedule=preset(1, 1.0))
    return rung_flops(rung, VARIANTS[dit], text_tokens=12) // 2


def test_intervals_hold_the_mean_and_shrink() -> None:
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(n, generator=generator).tolist() for n in (30, 3000))
    for values in (few, many):
        interval = mean_interval(values)
        assert interval.low < interval.mean < interval.high
        expected = 3.92 * torch.tensor(values).std().item() / len(values) ** 0.5
        assert interval.high - interval.low == pytest.approx(expected, rel=0.15)
    assert mean_interval(few) == mean_interval(few)


def test_pairs_cancel_what_prompts_have_in_common() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = (10 * torch.randn(100, generator=generator)).tolist()
    ours = [value + 0.5 for value in theirs]
    difference = paired_difference(ours, theirs)
    assert difference.low == pytest.approx(0.5)
    assert difference.high == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same prompts, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    with PeakMemory(torch.device("cpu")) as chain:
        x = torch.zeros(1000)
        for _ in range(10):
            x = x + 1
    assert chain.peak == 2 * 4000
    with PeakMemory(torch.device("cpu")) as kept:
        parts = [torch.zeros(1000) for _ in range(5)]
        views = [part[:10] for part in parts]
    assert kept.peak == 5 * 4000
    assert len(views) == 5
