"""Pages of a GPU's run, made elsewhere: what is read from the folder, and where it is kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import gpu_pages
from bench.gpu_goals import ABSENT
from disca_rt.measure.harness import Comparison, Contender, measure
from disca_rt.measure.machine import this_machine
from disca_rt.measure.record import read_records, write_records

MACHINE = replace(this_machine(), device="GPU: NVIDIA H200")


def written(folder: Path, tuned: str) -> Path:
    """Folder with one comparison, whose linear has twice the FLOPs in the square's time."""
    contenders = [
        Contender(name, lambda: None, flops)
        for name, flops in (("matrix product", 10), ("bf16", 20), ("FP8, row-wise", 20))
    ]
    comparison = Comparison("linear fc1", {"rows": 1}, "bfloat16", contenders, samples=1)
    records = [
        replace(record, median_s=seconds, gflops_per_s=record.flops / seconds)
        for record, seconds in zip(measure(comparison, 1, MACHINE, 1), (1, 2.5, 1), strict=True)
    ]
    write_records(folder / "results.jsonl", records)
    (folder / "profile").mkdir()
    shares = {"GEMM": 0.2, "attention": 0.75, "gap": 0.05, "all": 1.0}
    lines = (
        json.dumps({"kind": "full", "level": "step", "class": name, "share": share, "time_s": 1})
        for name, share in shares.items()
    )
    (folder / "profile" / "table.jsonl").write_text("\n".join(lines))
    (folder / "launch_table.json").write_text(tuned)
    return folder


def rows(folder: Path) -> dict[str, str]:
    """Last cells of the goals' rows, by goal."""
    lines = gpu_pages.page(gpu_pages.read(folder)).splitlines()
    cells = (line.strip("| ").split(" | ") for line in lines if line.startswith("| P"))
    return {first: last for first, *_, last in cells}


def test_goals_are_read_from_records_and_profiles(tmp_path: Path) -> None:
    found = rows(written(tmp_path, "{}"))
    assert found["P2"] == "fc1 0.800"
    assert found["P4"] == "5.00% of a full step"
    assert found["P10"] == "fc1, row-wise 2.50"
    assert all(found[goal] == ABSENT for goal in ("P1", "P3", "P5", "P6", "P7", "P8", "P9", "P12"))


def test_results_and_launches_are_kept_beside_those_of_other_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged, ours = tmp_path / "table.json", {"NVIDIA H200": {"ops": {}}}
    packaged.write_text('{"other": {}, "NVIDIA H200": {"attention": {}}}')
    monkeypatch.setattr(gpu_pages, "PACKAGED", packaged)
    monkeypatch.setattr(gpu_pages, "RESULTS", tmp_path)
    (tmp_path / "out").mkdir()
    folder = written(tmp_path / "out", json.dumps(ours))
    path = gpu_pages.keep(folder, gpu_pages.read(folder))
    assert path.name.startswith("nvidia-h200-20")
    assert read_records(path) == read_records(folder / "results.jsonl")
    assert json.loads(packaged.read_text()) == {"other": {}, **ours}


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no .*results\.jsonl; name a folder of bench/gpu\.sh"):
        gpu_pages.read(tmp_path)
