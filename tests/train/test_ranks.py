"""Gloo ranks train as one does: FSDP2, micro-batches, activation checkpointing, bf16, samples
shared by ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from train.small import STAGES, run

WORKER = Path(__file__).with_name("rank_worker.py")
ROOT = Path(__file__).parents[2]


def torchrun(folder: Path, variant: str, ranks: int) -> dict[str, list[dict[str, float]]]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run(
        [*command, str(ranks), str(WORKER), str(folder), variant],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "losses.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[dict]]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, {
        name: run(make_config(folder / f"starts_{name}"), folder / name)[1]
        for name, make_config in STAGES.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "ranks"), [("plain", 2), ("checkpointed", 2), ("shared", 2), ("shared", 4)]
)
def test_ranks_have_the_losses_of_one(
    variant: str, ranks: int, alone: tuple[Path, dict], tmp_path: Path
) -> None:
    folder, expected = alone
    losses = torchrun(tmp_path, variant, ranks)
    for name, steps in losses.items():
        for ours, theirs in zip(steps, expected[name], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), name
    for name in ("base", "cfg", "meanflow"):
        weights = [load_file(each / name / "dit.safetensors") for each in (folder, tmp_path)]
        assert weights[0].keys() == weights[1].keys()
        for key, ours in weights[0].items():
            assert (ours - weights[1][key]).abs().max() <= 0.01 * ours.abs().max() + 1e-5


@pytest.mark.slow
def test_two_ranks_train_in_bf16_near_fp32(alone: tuple[Path, dict], tmp_path: Path) -> None:
    losses = torchrun(tmp_path, "bf16", ranks=2)
    for name in ("base", "cfg"):
        for ours, theirs in zip(losses[name], alone[1][name], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)
