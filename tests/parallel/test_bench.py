"""`disca-rt bench` of several ranks: one result of all ranks, written by the first."""

from pathlib import Path

import pytest

from disca_rt.measure.record import read_records
from parallel.launch import forked, passes
from refusal import refusal


@pytest.mark.slow
def test_two_ranks_measure_one_sample(tmp_path: Path) -> None:
    out = tmp_path / "bench.jsonl"
    few = ["--steps", "3", "--step-list", "0,1", "--quick", "--samples", "1"]
    said = passes(
        forked(2, "-m", "disca_rt", "bench", "16x16x1", "--model", "tiny", *few, "--out", out)
    )
    records = read_records(out)
    assert [record.contender for record in records[2:]] == [
        "ours: native ops, native attention, 2 ranks",
        "full step",
        "predicted step, disca",
        "3 full steps",
        "disca: 2 full, 1 predicted",
    ]
    assert {record.ranks for record in records} == {2}
    assert said.count("sample, tiny 16x16x1: 1 samples") == 1, "one rank speaks"
    cached = next(record.memory for record in records if record.memory)["cache"]
    assert cached == (16 + 16) // 2 * 112 * 4  # half of 16 patches and 16 text tokens


def test_rivals_are_for_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = ["--out", tmp_path / "bench.jsonl"]
    told = refusal(["bench", "--quick", "--only", "rivals", *out], capsys)
    assert "--only rivals is for one process" in told
    assert list(tmp_path.iterdir()) == []
