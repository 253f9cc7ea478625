"""The ladder from weights to table: on a model made of noise, so that only the counting matters."""

import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from disca_rt.cli import main
from disca_rt.commands.evaluate import SHOWN
from disca_rt.config import predictor_config
from disca_rt.instruments.peak_memory import PeakMemory
from disca_rt.models.build import build_predictor
from disca_rt.schedule import preset
from disca_rt.tiny import config
from disca_rt.tiny.config import TINY
from disca_rt.tiny.ladder import (
    BASE,
    CFG,
    COMPARISONS,
    MEANFLOW,
    RESTRICTED,
    RESTRICTED_04,
    RUNGS,
    TABLES,
    TEACHER,
    WORK_TABLE,
)
from disca_rt.tiny.prompts import held_out_prompts
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
    **dict.fromkeys(
        (MEANFLOW, RESTRICTED, RESTRICTED_04),
        replace(SMALL, guidance_embed=True, meanflow=True),
    ),
}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    for seed, (name, sizes) in enumerate(VARIANTS.items()):
        dit = fresh_dit(sizes, seed)
        torch.nn.init.normal_(dit.final_layer.linear.weight, std=0.3)
        save_safetensors(folder / f"{name}.safetensors", dit.state_dict(), torch.float32, sizes)
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


SHORT = preset(3, shift=5.0)
SHORTER = tuple(replace(rung, schedule=SHORT) if rung.policy == "full" else rung for rung in RUNGS)
"""All rungs, those of full steps alone with few of them."""


class Evaluated(NamedTuple):
    """Files of an evaluation, read."""

    page: str
    printed: str
    lines: list[dict]
    rungs: dict[str, dict]


@pytest.fixture(scope="module")
def evaluated(ladder: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    out = tmp_path_factory.mktemp("evaluated")
    flags = ["--prompts", str(SHOWN), "--ladder", str(ladder), "--out", str(out), "--workers", "1"]
    with (
        patch("disca_rt.tiny.ladder.RUNGS", SHORTER),
        patch("disca_rt.tiny.rung_cost.ROUNDS", 1),
        redirect_stdout(StringIO()) as printed,
    ):
        assert main(["evaluate", *flags]) == 0
    lines = [json.loads(line) for line in (out / "ladder.jsonl").read_text().splitlines()]
    rungs = {line["name"]: line for line in lines if line["kind"] == "rung"}
    with Image.open(out / "ladder.png") as sheet:  # a row per rung, a column per prompt
        assert sheet.height == len(RUNGS) * (240 // 3 + 6)
        assert sheet.width > SHOWN * 3 * 320 // 3
    return Evaluated((out / "ladder.md").read_text(), printed.getvalue(), lines, rungs)


def test_every_rung_gets_its_rows_and_every_comparison_one(evaluated: Evaluated) -> None:
    assert evaluated.page in evaluated.printed
    assert list(evaluated.rungs) == [rung.name for rung in RUNGS]
    assert all(evaluated.page.count(f"| {r.name} |") >= len(r.tables) >= 1 for r in RUNGS)
    titles = [line for line in evaluated.page.splitlines() if line.startswith("## ")]
    assert titles == [*(f"## {n}. {title}" for n, title in TABLES.items()), "## Comparisons"]
    kinds = Counter(line["kind"] for line in evaluated.lines)
    clips, comparisons = SHOWN * len(RUNGS), len(COMPARISONS)
    assert kinds == {"run": 1, "rung": len(RUNGS), "clip": clips, "comparison": comparisons}
    assert evaluated.lines[0]["seconds"] > 0


def test_rungs_have_the_steps_they_are_named_after(evaluated: Evaluated) -> None:
    for rung in RUNGS:
        if found := re.search(r"(\d+) (full )?steps", rung.name):
            steps = rung.schedule.full_steps if found[2] else rung.schedule.steps
            assert steps == int(found[1]), rung.name
    for name, full, predicted in (
        ("original, 50 steps x 2", 2 * SHORT.steps, 0),
        ("cfg-distilled, 20 steps", SHORT.steps, 0),
        ("DisCa N=4", 8, 12),
        ("DisCa N=2", 13, 7),
        ("Taylor of order 1, 8 full steps", 8, 12),
    ):
        row = evaluated.rungs[name]
        assert (row["full_steps"], row["predicted_steps"]) == (full, predicted)


def test_speed_is_measured_where_a_table_shows_it(evaluated: Evaluated) -> None:
    measured = {n for n, row in evaluated.rungs.items() if "speedup_measured" in row}
    assert measured == {rung.name for rung in RUNGS if WORK_TABLE in rung.tables}
    first = evaluated.rungs["original, 50 steps x 2"]
    assert first["speedup_theoretical"] == first["speedup_measured"] == 1
    assert evaluated.rungs["DisCa N=4"]["speedup_measured"] > 0


def test_distances_are_to_a_rung_s_own_full_steps_and_to_the_teacher(evaluated: Evaluated) -> None:
    def distance(rung: str, to: str) -> float | None:
        return evaluated.rungs[rung].get(to, {}).get("mean")

    assert distance("restricted-meanflow, 20 steps", "relative_l2") == 0
    assert distance("reuse, 8 full steps", "relative_l2") > 0
    assert distance("original, 10 steps x 2", "relative_l2") is None
    assert distance(TEACHER, "teacher_l2") == 0
    assert distance("meanflow, 10 steps", "teacher_l2") > 0
    assert (
        distance("cfg-distilled, 50 steps", "relative_l2") is not None
    )  # whose reference is later


def test_a_cache_s_memory_is_that_of_its_tensors(evaluated: Evaluated) -> None:
    state = (240 + 11) * 32 * 4  # tokens of the image and of the prompt, of width 32 in fp32
    disca, taylor = (evaluated.rungs[n] for n in ("DisCa N=4", "Taylor of order 1, 8 full steps"))
    assert (disca["cache_bytes"], taylor["cache_bytes"]) == (state, 2 * state)
    plain = evaluated.rungs["restricted-meanflow, 20 steps"]["peak_bytes"]
    assert disca["peak_bytes"] >= plain + state


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
    told = refusal(["evaluate", "--prompts", "2", "--ladder", tmp_path], capsys)
    assert f"the ladder lacks {tmp_path / 'predictor-on-meanflow.safetensors'}" in told


def test_processes_change_nothing_but_the_time_and_their_end_is_told(ladder: Path) -> None:
    rung = next(rung for rung in RUNGS if rung.policy == "reuse")
    prompts, device = held_out_prompts(4, seed=0), torch.device("cpu")
    with Workers(1, [ladder], device) as alone, Workers(2, [ladder], device) as shared:
        one, other = (workers.generate(rung, prompts) for workers in (alone, shared))
        for process in multiprocessing.active_children():
            process.terminate()
        with pytest.raises(ChildProcessError, match="choose fewer --workers"):
            shared.generate(rung, prompts)
    assert [mark.prompt for mark in one.marks] == [mark.prompt for mark in other.marks] == prompts
    assert (one.latents - other.latents).norm() < 1e-4 * one.latents.norm()
    assert (one.video - other.video).abs().max() < 1e-3


def test_one_checkpoint_is_judged_alone(
    ladder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dit = str(ladder / f"{CFG}.safetensors")
    assert config.SCHEDULE.steps == 50
    monkeypatch.setattr(config, "SCHEDULE", SHORT)
    assert main(["evaluate", "--dit", dit, "--prompts", "2", "--out", str(tmp_path)]) == 0
    assert "| 50 steps | 3 | 0 |" in capsys.readouterr().out


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
    one_step = replace(RUNGS[0], schedule=preset(1, 1.0))
    assert flops[RUNGS[0].name] == 50 * rung_flops(one_step, SMALL, text_tokens=12)
    cheapest_first = ["reuse, 8 full steps", "DisCa N=4", "DisCa N=3", "DisCa N=2"]
    rising = [flops[name] for name in [*cheapest_first, "restricted-meanflow, 20 steps"]]
    assert rising == sorted(set(rising))
    assert flops["Taylor of order 1, 8 full steps"] == flops["reuse, 8 full steps"]


def test_intervals_hold_the_mean_and_shrink() -> None:
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(n, generator=generator).tolist() for n in (30, 1000))
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
