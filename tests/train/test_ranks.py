"""Gloo ranks train as one does: FSDP2, micro-batches, activation checkpointing, bf16, samples
shared by ranks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from parallel.launch import pids_of_ranks
from parallel.launch import torchrun as start
from train.small import STAGES, run

WORKER = Path(__file__).with_name("rank_worker.py")
ROOT = Path(__file__).parents[2]
UNDER_WAY = "forward and backward|mean over the ranks|optimizer step"


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
    assert losses.keys() == expected.keys()
    for name, steps in losses.items():
        for ours, theirs in zip(steps, expected[name], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), name
    for name in ("base", "cfg", "meanflow"):
        weights = [load_file(each / name / "dit.safetensors") for each in (folder, tmp_path)]
        assert weights[0].keys() == weights[1].keys()
        for key, ours in weights[0].items():
            assert (ours - weights[1][key]).abs().max() <= 0.01 * ours.abs().max() + 1e-5


@pytest.mark.slow
def test_ranks_go_on_from_their_checkpoint(alone: tuple[Path, dict], tmp_path: Path) -> None:
    [(name, steps)] = torchrun(tmp_path, "resumed", ranks=2).items()
    assert len(steps) == 2
    for ours, theirs in zip(steps, alone[1][name][2:], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.slow
def test_two_ranks_train_in_bf16_near_fp32(alone: tuple[Path, dict], tmp_path: Path) -> None:
    losses = torchrun(tmp_path, "bf16", ranks=2)
    for name in ("base", "cfg"):
        for ours, theirs in zip(losses[name], alone[1][name], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)


@pytest.mark.slow
def test_ranks_started_differently_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = f"{sys.executable} -m disca_rt train base --out {out} --timeout 60 --seed $RANK"
    process = start(2, "--no-python", "bash", "-c", command)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "ranks must be started alike: --seed is 0 on rank 0 and 1 on rank 1" in output
    assert not out.exists()


@pytest.mark.slow
def test_a_killed_rank_is_named_by_the_others(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(2, "-m", "disca_rt", "train", "base", "--out", out, "--timeout", "60")
    ranks = pids_of_ranks(process.pid, 2)
    while not (out / "run.json").exists():  # written before the first step
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.5)
    time.sleep(5)
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode != 0
    named = f"disca-rt: error: rank 1 died or was stopped; rank 0 was at: ({UNDER_WAY})"
    assert re.search(named, output), output[-4000:]
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert not (out / "dit.safetensors").exists()
