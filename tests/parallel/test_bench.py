"""`disca-rt bench` of several ranks: one result of all ranks, written by the first."""

from pathlib import Path

import pytest

from disca_rt.measure.record import read_records
from parallel.launch import forked, passes


@pytest.mark.slow
def test_two_ranks_measure_one_sample(tmp_path: Path) -> None:
    out = tmp_path / "bench.jsonl"
    workload = ["16x16x1", "--model", "tiny", "--quick", "--out", out]
    said = passes(forked(2, "-m", "disca_rt", "bench", *workload))
    records = read_records(out)
    assert [record.contender for record in records[2:]] == [
        "ours: reference ops, sdpa attention, 2 ranks",
        "full step",
        "predicted step, disca",
        "20 full steps",
        "disca: 8 full, 12 predicted",
    ]
    assert {record.ranks for record in records} == {2}
    assert said.count("sample, tiny 16x16x1: 2 samples") == 1, "one rank speaks"
    cached = next(record.memory for record in records if record.memory)["cache"]
    assert cached == (16 + 16) // 2 * 112 * 4  # half of 16 patches and 16 text tokens


def test_rivals_are_for_one_process(tmp_path: Path) -> None:
    out = ["--out", tmp_path / "bench.jsonl"]
    process = forked(2, "-m", "disca_rt", "bench", "--quick", "--only", "rivals", *out)
    said, _ = process.communicate()
    assert process.returncode != 0
    assert "--only rivals is for one process" in said
    assert list(tmp_path.iterdir()) == []
