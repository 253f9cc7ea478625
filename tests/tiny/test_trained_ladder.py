"""The trained ladder: its page is its generator's, and 8 prompts through the whole command."""

import json
from pathlib import Path

import pytest

from disca_rt.cli import main
from disca_rt.tiny.ladder import COMPARISONS, RUNGS, TEACHER, digests
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


@pytest.mark.slow
@pytest.mark.timeout(900)  # 100 s on a quiet machine
def test_a_trial_of_the_whole_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the weights are that the package does not ship
    assert main(["evaluate", "--quick", "--workers", "1", "--out", str(tmp_path)]) == 0
    rungs = {e["name"]: e for e in lines_of(tmp_path / "ladder.jsonl") if e["kind"] == "rung"}
    assert rungs.keys() == {rung.name for rung in RUNGS}
    for name in (TEACHER, "restricted-meanflow, 20 steps", "DisCa N=4"):
        assert rungs[name]["semantic"]["mean"] > 0.9
    distance = {name: e["relative_l2"]["mean"] for name, e in rungs.items() if "relative_l2" in e}
    assert distance["DisCa N=4"] < distance["reuse, 8 full steps"]
    assert distance["DisCa N=4"] < distance["restricted-meanflow, 10 steps"]
    assert rungs["DisCa N=4"]["speedup_theoretical"] > 9
