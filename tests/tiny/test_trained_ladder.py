"""The trained ladder: its page is its generator's, and all its weights through the command."""

import json
from pathlib import Path

import pytest

from disca_rt.cli import main
from disca_rt.tiny.ladder import COMPARISONS, RUNGS, Rung, digests
from disca_rt.tiny.report import markdown
from disca_rt.tiny.runtime import SHIPPED

ROOT = Path(__file__).parents[2]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_page_is_generated_from_its_lines() -> None:
    lines = lines_of(ROOT / "docs" / "ladder.jsonl")
    assert (ROOT / "docs" / "ladder.md").read_text() == markdown(lines)
    assert [line["name"] for line in lines if line["kind"] == "rung"] == [r.name for r in RUNGS]
    assert len([line for line in lines if line["kind"] == "comparison"]) == len(COMPARISONS)
    gflop = {line["name"]: line["gflop"] for line in lines if line["kind"] == "rung"}
    fewer, compared = (gflop[f"restricted-meanflow, {steps} steps"] for steps in (9, 10))
    assert fewer < gflop["DisCa N=4"] <= compared
    (run,) = (line for line in lines if line["kind"] == "run")
    assert run["prompts"] >= 300
    assert run["seconds"] < 45 * 60
    assert run["weights"] == digests(RUNGS, [ROOT / "ladder", SHIPPED])


FEWEST = (
    "original, 10 steps x 2",
    "cfg-distilled, 10 steps",
    "restricted-meanflow-0.4, 9 steps",
    "restricted-meanflow, 20 steps",
    "restricted-meanflow, 10 steps",
    "reuse, 8 full steps",
    "DisCa N=4",
    "DisCa N=4 without GAN",
    "DisCa N=4 on MeanFlow",
)
"""Rungs that take every file of weights, those whose order is looked at, and their references."""


def no_memory(*_: object) -> dict[str, int]:
    return {"peak_bytes": 0, "cache_bytes": 0}


def no_seconds(rungs: list[Rung], _: object) -> list[float]:
    return [1.0] * len(rungs)


@pytest.mark.slow
def test_a_trial_of_all_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs of rungs are not measured: the ladder of noise has its tests."""
    monkeypatch.chdir(ROOT)  # where the weights are that the package does not ship
    rungs = tuple(rung for rung in RUNGS if rung.name in FEWEST)
    folders = [ROOT / "ladder", SHIPPED]
    assert digests(rungs, folders) == digests(RUNGS, folders)
    monkeypatch.setattr("disca_rt.tiny.ladder.RUNGS", rungs)
    monkeypatch.setattr("disca_rt.tiny.run_ladder.COMPARISONS", ())
    monkeypatch.setattr("disca_rt.commands.evaluate.QUICK_PROMPTS", 2)
    monkeypatch.setattr("disca_rt.tiny.run_ladder.memory", no_memory)
    monkeypatch.setattr("disca_rt.tiny.run_ladder.seconds_per_clip", no_seconds)
    assert main(["evaluate", "--quick", "--workers", "1", "--out", str(tmp_path)]) == 0
    lines = lines_of(tmp_path / "ladder.jsonl")
    rows = {line["name"]: line for line in lines if line["kind"] == "rung"}
    assert list(rows) == list(FEWEST)
    assert all(row["semantic"]["mean"] > 0.9 for row in rows.values())
    distance = {n: row["relative_l2"]["mean"] for n, row in rows.items() if "relative_l2" in row}
    assert distance["DisCa N=4"] < distance["reuse, 8 full steps"]
    assert distance["DisCa N=4"] < distance["restricted-meanflow, 10 steps"]
    assert 5 * rows["DisCa N=4"]["speedup_theoretical"] > 9  # over 50 steps x 2
