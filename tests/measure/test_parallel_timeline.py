"""Comparison of simulator and real run: work made of marks, and a run of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.marked_block import Marks, to_work
from bench.parallel_timeline import CASES

ROOT = Path(__file__).parents[2]


def marks(moments: str, attended: list[float]) -> Marks:
    stages = "start,v made,v left,k made,k left,q made,q left,under q,under o,received,end"
    made = Marks()
    made.moments = dict(zip(stages.split(","), map(float, moments.split()), strict=True))
    made.attended = attended
    return made


def test_stages_become_pieces() -> None:
    run = marks("0 1 1.5 3 3.5 5 5.5 6 10 11 13", [1.0, 2.0])
    work = to_work([run], chunks=2)
    seconds = {
        name: [piece.seconds for piece in pieces]
        for name, pieces in work._replace(attend=sum(work.attend, ()))._asdict().items()
    }
    assert seconds == {
        "enter": [],
        "v": [1],
        "k": [1.5],
        "q": [1.5],
        "pack_v": [0.25, 0.25],
        "pack_kq": [0.25, 0.25],
        "under_q": [0.5],
        "attend": [1, 2],
        "under_o": [1],
        "unpack": [0.5, 0.5],
        "leave": [2],
    }
    assert work.seconds == run.between("start", "end")


def test_medians_of_the_rounds() -> None:
    runs = [marks(f"0 {v} 20 21 22 23 24 25 26 27 28", [0.5]) for v in (1, 9, 3)]
    assert to_work(runs, chunks=1).v[0].seconds == 3


@pytest.mark.slow
def test_the_comparison_runs(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "bench.parallel_timeline", "--small", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launch, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["case"]["name"] for line in lines] == [case.name for case in CASES]
    for line in lines:
        assert line["predicted_s"] >= max(line["compute_s"], line["wire_s"]) > 0
        assert line["median_s"] > 0
