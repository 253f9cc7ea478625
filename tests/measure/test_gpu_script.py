"""bench/gpu.sh without a GPU: its stages in small, past a failing one, and without packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from disca_rt.measure.record import read_records

ROOT = Path(__file__).parents[2]
TEST_PACKAGES = "pytest pytest-timeout hypothesis safetensors"
# NumPy is what Triton's interpreter needs, and no GPU does.
BARE = """
import sys
from importlib.machinery import PathFinder

ABSENT = "pytest", "_pytest", "pytest_timeout", "hypothesis", "safetensors", "rich", "PIL", "av"
ABSENT = {*ABSENT, "matplotlib", "diffusers", "transformers", "cache_dit"}

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *where):
        return None if name.partition(".")[0] in ABSENT else PathFinder.find_spec(name, *where)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "bench" / "gpu.sh", *arguments],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


def stages() -> list[str]:
    said = script("unknown").stderr
    return said.partition("one of ")[2].partition(",")[0].split()


def test_an_unknown_stage_is_refused() -> None:
    done = script("unknown")
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.sh: error: stage must be one of machine build ")
    assert done.stderr.endswith("got unknown\n")


@NO_GPU
def test_without_a_gpu_it_names_the_dry_run() -> None:
    done = script("machine")
    assert done.returncode != 0
    assert "PyTorch sees no GPU; --dry-run tries every stage on a CPU" in done.stderr


@pytest.mark.slow
def test_stages_go_on_past_a_failing_one_and_can_be_run_alone(tmp_path: Path) -> None:
    results = tmp_path / "cpu.jsonl"
    done = script("--dry-run", "tune", "sample", RESULTS=str(results), LIMIT="0.5")
    assert done.returncode == 1
    assert "tune: stopped after 0.5 s" in done.stdout
    assert done.stdout.count("=== sample") == 2, "the other went on"
    assert "gpu.sh: failed: tune sample" in done.stdout
    done = script("--dry-run", "sample", "ladder", RESULTS=str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    names = [record.benchmark for record in read_records(results)]
    assert names == ["matrix product", "copy", *["sample, tiny 8x8x1"] * 2]
    assert {path.name for path in tmp_path.iterdir()} >= {"cpu.jsonl", "cpu.png", "cpu.md"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        *("machine", pytest.param("tests", marks=NO_GPU)),
        *("ops-704", "ops-720p", "ops-480p"),
        *("ceilings", "steps", "sample-graphs", "rivals", "sample-rivals"),
    ],
)
def test_a_stage_in_small(stage: str, tmp_path: Path) -> None:
    assert stage in stages()
    done = script("--dry-run", stage, RESULTS=str(tmp_path / "cpu.jsonl"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"=== {stage}: exit code 0" in done.stdout


@pytest.mark.slow
def test_a_machine_with_nothing_but_pytorch(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BARE)
    results = tmp_path / "cpu.jsonl"
    bare = {"PYTHONPATH": str(tmp_path), "RESULTS": str(results)}
    chosen = "machine", "tests", "sample-rivals", "embedded", "ladder"
    done = script("--dry-run", *chosen, **bare)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "=== machine",
        f"tests: skipped, needs {TEST_PACKAGES}: pip install {TEST_PACKAGES}",
        "sample-rivals: skipped, needs diffusers cache-dit: pip install diffusers cache-dit",
        "ladder: without its picture, needs matplotlib; on any machine that has it: "
        "python -m disca_rt.measure.ladder FILE OUT.png",
    ]
    tests = lines.index("=== tests")
    assert lines[tests + 1] == lines[1]
    assert lines[tests + 2].startswith("=== tests: exit code 0")
    assert {record.weights for record in read_records(results)} == {"", "embedded"}
    assert (tmp_path / "cpu.md").is_file()
    assert not (tmp_path / "cpu.png").exists()
