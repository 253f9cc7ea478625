"""Gloo ranks train as one does: FSDP2, micro-batches, activation checkpointing, bf16, samples
shared by ranks."""

import json
import os
import re
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from disca_rt.train import distributed
from disca_rt.train.trainer import DIT_NAME, WEIGHTS_NAME
from parallel.launch import forked, passes, pids_of_ranks
from refusal import refusal
from train.rank_worker import SHORT
from train.small import CACHE, STAGES, run, stage_config

WORKER = Path(__file__).with_name("rank_worker.py")
WEIGHTS = WEIGHTS_NAME | dict.fromkeys(CACHE, WEIGHTS_NAME["cache"])
UNDER_WAY = "forward and backward|mean over the ranks|optimizer step"
RUNS = {2: ["plain", "bf16", "shared", "resumed"], 4: ["shared by two"]}
"""Variants by the number of ranks, which start once for all variants."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("train ranks")]
Losses = dict[str, list[dict[str, float]]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Losses]:
    folder, losses = tmp_path_factory.mktemp("alone"), {}
    for name in STAGES:
        config = stage_config(name, folder / f"starts_{name}")
        if name != "predictor":  # which is resumed, too
            config = replace(config, run=replace(config.run, **SHORT))
        losses[name] = run(config, folder / name)[1]
    return folder, losses


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
            assert len(steps) == SHORT["steps"]
            for ours, theirs in zip(steps, expected[name], strict=False):
                assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), (variant, name)
        for name in losses.keys() - {"predictor"}:
            ours, theirs = (
                load_file(each / name / WEIGHTS.get(name, DIT_NAME))
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


def test_ranks_started_differently_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All flags are compared before anything is made; how, tests/parallel knows."""

    class Other:
        def check_alike(self, arguments: Mapping[str, str]) -> None:
            raise ValueError(f"started with {dict(arguments)}")

    monkeypatch.setattr(distributed, "is_launched", lambda: True)
    monkeypatch.setattr(distributed, "joined", lambda *_: nullcontext(Other()))
    told = refusal(["train", "base", "--out", tmp_path / "run", "--seed", "7"], capsys)
    assert "'--seed': '7'" in told
    assert not (tmp_path / "run").exists()


def test_a_killed_rank_is_named_by_the_others(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = "--out", out, "--timeout", "60", "--batch", "2"
    process = forked(2, "-m", "disca_rt", "train", "base", *flags)
    ranks = pids_of_ranks(process.pid, 2)
    while not (out / "run.json").exists():  # written before the first step
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.1)
    time.sleep(2)
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode != 0
    named = f"disca-rt: error: rank 1 died or was stopped; rank 0 was at: ({UNDER_WAY})"
    assert re.search(named, output), output[-4000:]
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert not (out / "dit.safetensors").exists()
