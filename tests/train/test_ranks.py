"""Gloo ranks train as one does: FSDP2, micro-batches, activation checkpointing, bf16, samples
shared by ranks."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from parallel.launch import forked, passes, pids_of_ranks, torchrun
from train.small import STAGES, run

WORKER = Path(__file__).with_name("rank_worker.py")
UNDER_WAY = "forward and backward|mean over the ranks|optimizer step"
RUNS = {2: ["plain", "bf16", "shared", "resumed"], 4: ["shared by two"]}
"""Variants by the number of ranks, which start once for all of them."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("train ranks")]
Losses = dict[str, list[dict[str, float]]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Losses]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, {
        name: run(make_config(folder / f"starts_{name}"), folder / name)[1]
        for name, make_config in STAGES.items()
    }


@pytest.fixture(scope="module", params=RUNS)
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Losses]]:
    folder = tmp_path_factory.mktemp("together")
    passes(forked(request.param, WORKER, folder, *RUNS[request.param]))
    return folder, json.loads((folder / "losses.json").read_text())


def test_ranks_have_the_losses_of_one(
    together: tuple[Path, dict[str, Losses]], alone: tuple[Path, Losses]
) -> None:
    (folder, variants), (folder_of_one, expected) = together, alone
    for variant in variants.keys() - {"bf16", "resumed"}:
        losses = variants[variant]
        for name, steps in losses.items():
            for ours, theirs in zip(steps, expected[name], strict=True):
                assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), (variant, name)
        for name in losses.keys() - {"predictor"}:
            ours, theirs = (
                load_file(each / name / "dit.safetensors")
                for each in (folder / variant, folder_of_one)
            )
            assert ours.keys() == theirs.keys()
            for key, weight in theirs.items():
                bound = 0.01 * weight.abs().max() + 1e-5
                assert (weight - ours[key]).abs().max() <= bound, (variant, name)


@pytest.mark.parametrize("together", [2], indirect=True)
def test_ranks_go_on_from_their_checkpoint(
    together: tuple[Path, dict[str, Losses]], alone: tuple[Path, Losses]
) -> None:
    [(name, steps)] = together[1]["resumed"].items()
    assert len(steps) == 2
    for ours, theirs in zip(steps, alone[1][name][2:], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.mark.parametrize("together", [2], indirect=True)
def test_two_ranks_train_in_bf16_near_fp32(
    together: tuple[Path, dict[str, Losses]], alone: tuple[Path, Losses]
) -> None:
    for name, steps in together[1]["bf16"].items():
        for ours, theirs in zip(steps, alone[1][name], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)


def test_ranks_started_differently_are_refused(tmp_path: Path) -> None:
    out, script = tmp_path / "run", tmp_path / "by_rank.py"
    flags = ["train", "base", "--out", str(out), "--timeout", "60", "--seed"]
    script.write_text(
        "import os, sys\nfrom disca_rt.cli import main\n"
        f"if __name__ == '__main__': sys.exit(main({flags} + [os.environ['RANK']]))\n"
    )
    process = forked(2, script)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "ranks must be started alike: --seed is 0 on rank 0 and 1 on rank 1" in output
    assert not out.exists()


def test_a_killed_rank_is_named_by_the_others(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = torchrun(2, "-m", "disca_rt", "train", "base", "--out", out, "--timeout", "60")
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
