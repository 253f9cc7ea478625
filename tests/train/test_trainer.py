"""The training loop: a killed run loses nothing, ranks change nothing, bad numbers stop it."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train import distributed
from disca_rt.train.build import build_stage
from disca_rt.train.distributed import placed
from disca_rt.train.flow_matching import BaseStage, BaseStageConfig
from disca_rt.train.predictor import PredictorStageConfig
from disca_rt.train.run_file import check_same_run, describe_run, write_run
from disca_rt.train.stage import Loss, Stage
from disca_rt.train.trainer import train
from disca_rt.weights.load import load_dit
from train.small import ALONE, RUN, SMALL, STAGES, Stopped, run, same_weights, stage_config


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("killed_at", [1, 2, 3])  # before, at and after a checkpoint
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    stage: str, killed_at: int, tmp_path: Path
) -> None:
    config = stage_config(stage, tmp_path)
    # The rates never stand still, so that a resumed run must know what they refer to.
    rates = {"warmup_steps": 3, "decay_steps": 3, "muon_lr": 1e-3 if stage == "base" else None}
    config = replace(config, run=replace(RUN, **rates))
    whole, terms = run(config, tmp_path / "whole")

    killed = tmp_path / "killed"
    with pytest.raises(Stopped):
        run(config, killed, stop_after=killed_at)
    torch.manual_seed(1)  # the resumed run gets its random state from the checkpoint
    resumed, later = run(config, killed)
    assert later == terms[-len(later) :]
    assert same_weights(whole, resumed)
    logs = [(tmp_path / name / "loss.jsonl").read_text() for name in ("whole", "killed")]
    assert [_losses(log) for log in logs] == [[t["loss"] for t in terms]] * 2


def test_how_often_checkpoints_are_written_changes_no_loss(tmp_path: Path) -> None:
    config = stage_config("predictor", tmp_path)  # its discriminator first learns at step 1
    often, rarely = (
        run(replace(config, run=replace(RUN, checkpoint_every=n)), tmp_path / str(n))[1]
        for n in (1, 4)
    )
    assert often == rarely


def _losses(log: str) -> list[float]:
    return [json.loads(line)["loss"] for line in log.splitlines()]


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "harmonica"])
def test_micro_batches_change_no_loss(stage: str, tmp_path: Path) -> None:
    config = stage_config(stage, tmp_path)
    _, whole = run(config, tmp_path / "whole")
    split = replace(config, run=replace(RUN, micro_batch=2))
    _, parts = run(split, tmp_path / "parts")
    for one, other in zip(whole, parts, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_activation_checkpointing_changes_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = []
    monkeypatch.setattr(
        distributed,
        "checkpoint_wrapper",
        lambda block, **how: wrapped.append(block) or checkpoint_wrapper(block, **how),
    )
    config = BaseStageConfig(RUN, SMALL)
    kept, _ = run(config, tmp_path / "kept")
    recomputed, _ = run(
        replace(config, run=replace(RUN, activation_checkpointing=True)), tmp_path / "recomputed"
    )
    assert len(wrapped) == SMALL.double + SMALL.single
    assert same_weights(kept, recomputed)


def test_compiled_blocks_change_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are traced; Inductor would take a minute to write its C++."""
    eagerly = partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", eagerly)
    shallow = BaseStageConfig(replace(RUN, steps=2), replace(SMALL, single=1))
    _, eager = run(shallow, tmp_path / "eager")
    compiled = replace(shallow, run=replace(shallow.run, compile=True))
    torch._dynamo.utils.counters.clear()
    written, losses = run(compiled, tmp_path / "compiled")
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] > 0
    for one, other in zip(eager, losses, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert load_dit(written).config == shallow.model


def test_bf16_changes_the_loss_a_little_and_keeps_fp32_weights(tmp_path: Path) -> None:
    config = BaseStageConfig(RUN, SMALL)
    _, exact = run(config, tmp_path / "fp32")
    bf16 = replace(config, run=replace(RUN, bf16=True))
    stage = placed(lambda: build_stage(config, unconditional()), bf16.run, ALONE)
    terms = []
    train(stage, bf16, TrainingClips(), tmp_path, ALONE, lambda e: terms.append(e.terms))
    assert terms[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.02)
    assert {p.dtype for p in stage.trained.parameters()} == {torch.float32}


def test_a_run_with_other_settings_is_not_resumed(tmp_path: Path) -> None:
    config = BaseStageConfig(replace(RUN, steps=2), SMALL)
    run(config, tmp_path)
    longer, _ = run(replace(config, run=replace(RUN, steps=3)), tmp_path)
    assert longer.exists()
    with pytest.raises(ValueError, match=r"holds a run with batch 4, not 8; resume with the same"):
        run(replace(config, run=replace(RUN, batch=8)), tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with shift 2.0, not 3.0"):
        run(replace(config, shift=3.0), tmp_path)
    with pytest.raises(ValueError, match=r"has 3 steps already, got 2"):
        run(config, tmp_path)
    described = tmp_path / "run.json"
    saved = json.loads(described.read_text())
    assert saved["data"] == {"type": "TrainingClips", **asdict(TrainingClips())}
    for younger in ("compile", "ops"):  # than the version that wrote it
        del saved["run"][younger]
    described.write_text(json.dumps(saved))
    run(replace(config, run=replace(RUN, steps=4)), tmp_path)
    described.write_text("[]")
    with pytest.raises(ValueError, match=r"run.json does not describe a run: it has no run"):
        run(config, tmp_path)


OTHER = replace(RUN, lr=1.0, batch=8, clip=9.0, ema=0.5, seed=3, warmup_steps=7)


@pytest.mark.parametrize(
    ("theirs", "data", "message"),
    [
        (PredictorStageConfig(OTHER, "dit"), TrainingClips(9), "stage BaseStageConfig, not Pred"),
        (BaseStageConfig(OTHER, SMALL, shift=3.0), TrainingClips(9), "data {'type': 'TrainingC"),
        (BaseStageConfig(OTHER, SMALL, "dit", 0.5, 3.0), TrainingClips(), "start None, not dit"),
    ],
)
def test_of_many_differences_the_cause_is_named(
    theirs: Any, data: TrainingClips, message: str, tmp_path: Path
) -> None:
    path, ours = tmp_path / "run.json", BaseStageConfig(RUN, SMALL)
    write_run(path, describe_run(ours, TrainingClips()))
    with pytest.raises(ValueError, match=re.escape(f"holds a run with {message}")):
        check_same_run(path, describe_run(theirs, data), theirs)


def test_settings_may_change_until_there_is_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BaseStageConfig(RUN, SMALL)
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(BaseStage, "loss", lambda *_: Loss(nan * 1, {"loss": nan.detach()}))
    with pytest.raises(
        FloatingPointError, match="no checkpoint yet; begin again with other samples"
    ):
        run(config, tmp_path)
    monkeypatch.undo()
    slower, _ = run(replace(config, run=replace(RUN, lr=1e-4)), tmp_path)
    assert slower.exists()


def test_a_run_that_is_over_writes_its_weights_again(tmp_path: Path) -> None:
    config = BaseStageConfig(RUN, SMALL)
    path, _ = run(config, tmp_path)
    path.rename(tmp_path / "moved.safetensors")
    again, terms = run(config, tmp_path)
    assert terms == []
    assert same_weights(again, tmp_path / "moved.safetensors")


def test_a_log_with_a_torn_line_is_gone_on_with(tmp_path: Path) -> None:
    config = BaseStageConfig(RUN, SMALL)
    run(replace(config, run=replace(RUN, steps=2)), tmp_path)
    log = tmp_path / "loss.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "lo')
    run(config, tmp_path)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]


def not_a_number(stage: Stage, loss: Loss) -> Loss:
    nan = loss.total * float("nan")
    return Loss(nan, {"loss": nan.detach()})


def root_of_zero(stage: Stage, loss: Loss) -> Loss:
    """Add what is finite and has a derivative that is not."""
    weight = stage.trained["model"].img_in.proj.bias
    return loss._replace(total=loss.total + (weight - weight.detach()).sum().abs().sqrt())


@pytest.mark.parametrize(("spoil", "what"), [(not_a_number, "loss"), (root_of_zero, "gradient")])
def test_what_is_not_finite_stops_a_run_and_keeps_the_last_checkpoint(
    spoil: Callable, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, real = BaseStageConfig(RUN, SMALL), BaseStage.loss
    path, _ = run(replace(config, run=replace(RUN, steps=2)), tmp_path)
    good = path.read_bytes()
    monkeypatch.setattr(BaseStage, "loss", lambda stage, *given: spoil(stage, real(stage, *given)))
    with pytest.raises(FloatingPointError, match=rf"{what} is not finite at step 2.*smaller lr"):
        run(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    assert path.read_bytes() == good
    monkeypatch.undo()
    _, terms = run(config, tmp_path)
    assert len(terms) == 2


def test_loss_curves_are_drawn(tmp_path: Path) -> None:
    run(stage_config("predictor", tmp_path), tmp_path / "run", curves=True)
    from PIL import Image

    with Image.open(tmp_path / "run" / "loss.png") as picture:
        assert picture.width == 800
        assert picture.height > 600  # four curves
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be a positive number, got -1.0"),
        ({"muon_lr": float("nan")}, "muon_lr must be a positive number, got nan"),
        ({"ema": 1.0}, "ema must be from 0 to below 1, got 1.0"),
        ({"micro_batch": 0}, "micro_batch must be at least 1, got 0"),
        ({"seed": -1}, "seed must be from 0 to 2.63 - 1, got -1"),
        ({"log_every": 3}, "checkpoint_every must be a multiple of log_every, 3,"),
    ],
)
def test_illegal_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RUN, **change)


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the 3 ranks, got 4; nearest are 3 and 6"):
        RUN.rank_batch(3)
    with pytest.raises(ValueError, match="divide a rank's share of 4 samples, got 3"):
        replace(RUN, micro_batch=3).micro_batches(1)


def test_rates_warm_up_and_fall_to_zero() -> None:
    schedule = replace(RUN, steps=100, warmup_steps=10, decay_steps=20)
    factors = [schedule.lr_factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:80] == [1.0] * 71
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.05)
