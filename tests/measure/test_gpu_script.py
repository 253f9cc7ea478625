"""bench/gpu.sh without a GPU: its stages in small, past a failing one, and without packages."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from bench.gpu_goals import ABSENT
from bench.gpu_pages import page, read
from disca_rt.measure.record import read_records

ROOT = Path(__file__).parents[2]
PACKAGES = "pytest pytest-timeout pytest-xdist hypothesis safetensors"
# NumPy is what Triton's interpreter needs, and no GPU does.
BARE = """
import sys
from importlib.machinery import PathFinder

ABSENT = "pytest", "_pytest", "pytest_timeout", "hypothesis", "safetensors", "rich", "PIL", "av"
ABSENT = {*ABSENT, "xdist", "matplotlib", "diffusers", "transformers", "cache_dit"}

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *where):
        return None if name.partition(".")[0] in ABSENT else PathFinder.find_spec(name, *where)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
# Without the kit, if one was made here: it is for another Python.
ALONE = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "GPU_KIT": "/nowhere"}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "bench" / "gpu.sh", *arguments],
        env=os.environ | ALONE | environment,
        capture_output=True,
        text=True,
    )


def test_an_unknown_stage_is_refused() -> None:
    done = script("unknown")
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.sh: error: stage must be first, second or some of machine ")
    assert done.stderr.endswith("got unknown\n")
    assert script().stderr.startswith("gpu.sh: error: say first, second, or stages: machine build ")


@NO_GPU
def test_without_a_gpu_it_names_the_dry_run() -> None:
    done = script("machine")
    assert done.returncode != 0
    assert "PyTorch sees no GPU; --dry-run tries every stage on a CPU" in done.stderr


@pytest.mark.slow
def test_stages_go_on_past_a_failing_one_and_pages_are_made_of_them(tmp_path: Path) -> None:
    out, packed = tmp_path / "out", tmp_path / "packed"
    packed.mkdir()
    folders = {"GPU_OUT": str(out), "OUT": str(packed)}
    done = script("--dry-run", "tune", "sample", LIMIT="0.5", **folders)
    assert done.returncode == 1
    assert "tune: stopped after 0.5 s" in done.stdout
    assert done.stdout.count("=== sample") == 2, "the other went on"
    assert "gpu.sh: failed: tune sample" in done.stdout
    done = script("--dry-run", "sample", "profile", **folders)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("sample", "profile"):
        assert f"=== {stage}: exit code 0" in done.stdout
    with tarfile.open(packed / "gpu.tgz") as tar:
        names = set(tar.getnames())
    assert {"./results.jsonl", "./launch_table.json", "./profile/table.jsonl"} <= names
    rows = {line.split(" | ")[0][2:]: line for line in page(read(out)).splitlines()}
    assert all(ABSENT not in rows[goal] for goal in ("P4", "P9", "P12"))
    assert all(ABSENT in rows[goal] for goal in ("P1", "P2", "P3", "P5", "P8", "P10"))


@pytest.mark.slow
def test_a_command_keeps_its_time(tmp_path: Path) -> None:
    done = script("--dry-run", "machine", "steps", GPU_OUT=str(tmp_path), BUDGET="1")
    assert done.returncode == 1
    assert "steps: no time left" in done.stdout or "steps: stopped after" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param("tests", marks=NO_GPU), "rates", "steps"])
def test_a_stage_in_small(stage: str, tmp_path: Path) -> None:
    done = script("--dry-run", stage, GPU_OUT=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"=== {stage}: exit code 0" in done.stdout
    rows = {"tests": (), "rates": ("fc2, tensor-wise", "sdpa"), "steps": ("eager reference 0.",)}
    assert all(row in page(read(tmp_path)) for row in rows[stage])


@pytest.mark.slow
def test_a_machine_with_nothing_but_pytorch(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BARE)
    bare = {"PYTHONPATH": str(tmp_path), "GPU_OUT": str(tmp_path / "out")}
    done = script("--dry-run", "machine", "tests", "sample", "fp8", **bare)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert f"tests: skipped, needs {PACKAGES}: pip install {PACKAGES}" in lines
    assert lines.count("profile: skipped, needs rich: pip install rich") == 1
    assert lines.count("fp8: skipped, needs rich: pip install rich") == 2, "and at its place"
    records = read_records(tmp_path / "out" / "results.jsonl")
    assert {record.weights for record in records} == {"", "random"}
