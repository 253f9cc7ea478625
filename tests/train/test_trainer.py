"""The training loop: a killed run loses nothing, ranks change nothing, bad numbers stop it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from disca_rt.tiny.training_clips import TrainingClips, unconditional
from disca_rt.train import trainer
from disca_rt.train.build import build_stage
from disca_rt.train.flow_matching import BaseStage, BaseStageConfig
from disca_rt.train.stage import Loss
from disca_rt.train.trainer import train
from disca_rt.weights.load import load_dit, load_predictor
from train.small import ALONE, RUN, SMALL, STAGES, run


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("killed_at", [1, 2, 3])  # before, at and after a checkpoint
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    stage: str, killed_at: int, tmp_path: Path
) -> None:
    config = STAGES[stage](tmp_path)
    if stage == "base":
        config = replace(config, run=replace(RUN, muon_lr=1e-3))
    whole, terms = run(config, tmp_path / "whole")

    def kill(event: trainer.TrainEvent) -> None:
        if event.done == killed_at:
            raise KeyboardInterrupt

    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(build_stage(config, unconditional()), config, TrainingClips(), killed, ALONE, kill)
    torch.manual_seed(1)  # the resumed run gets its random state from the checkpoint
    resumed, later = run(config, killed)
    assert later == terms[-len(later) :]
    weights = [load_file(path) for path in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    logs = [(tmp_path / name / "loss.jsonl").read_text() for name in ("whole", "killed")]
    assert [_losses(log) for log in logs] == [[t["loss"] for t in terms]] * 2


def _losses(log: str) -> list[float]:
    return [json.loads(line)["loss"] for line in log.splitlines()]


@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_change_no_loss(stage: str, tmp_path: Path) -> None:
    config = STAGES[stage](tmp_path)
    _, whole = run(config, tmp_path / "whole")
    split = replace(config, run=replace(RUN, micro_batch=2))
    _, parts = run(split, tmp_path / "parts")
    if stage == "predictor":  # spectral norms go one power iteration further per forward
        whole, parts = whole[:1], parts[:1]
    for one, other in zip(whole, parts, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_activation_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    config = BaseStageConfig(RUN, SMALL)
    kept, _ = run(config, tmp_path / "kept")
    recomputed, _ = run(
        replace(config, run=replace(RUN, activation_checkpointing=True)), tmp_path / "recomputed"
    )
    weights = [load_file(path) for path in (kept, recomputed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_bf16_changes_the_loss_a_little_and_keeps_fp32_weights(tmp_path: Path) -> None:
    config = BaseStageConfig(RUN, SMALL)
    _, exact = run(config, tmp_path / "fp32")
    stage = build_stage(config, unconditional())
    terms = []
    bf16 = replace(config, run=replace(RUN, bf16=True))
    train(stage, bf16, TrainingClips(), tmp_path, ALONE, lambda e: terms.append(e.terms))
    assert terms[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.02)
    assert {p.dtype for p in stage.trained.parameters()} == {torch.float32}


def test_weights_are_written_in_the_official_layout(tmp_path: Path) -> None:
    base, _ = run(STAGES["base"](tmp_path), tmp_path / "base")
    assert load_dit(base).config == SMALL
    predictor, _ = run(STAGES["predictor"](tmp_path), tmp_path / "predictor")
    assert load_predictor(predictor).config.depth == 2


def test_a_run_with_other_settings_is_not_resumed(tmp_path: Path) -> None:
    config = BaseStageConfig(replace(RUN, steps=2), SMALL)
    run(config, tmp_path)
    longer, _ = run(replace(config, run=replace(RUN, steps=3)), tmp_path)
    assert longer.exists()
    with pytest.raises(ValueError, match=r"holds a run with batch 4, not 8; resume with the same"):
        run(replace(config, run=replace(RUN, batch=8)), tmp_path)
    with pytest.raises(ValueError, match=r"holds a run with shift 2.0, not 3.0"):
        run(replace(config, shift=3.0), tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BaseStageConfig(RUN, SMALL)
    real = BaseStage.loss

    def broken(stage, batch, draws, step):
        loss = real(stage, batch, draws, step)
        return Loss(loss.total * float("nan"), {"loss": loss.total.detach() * float("nan")})

    run(replace(config, run=replace(RUN, steps=2)), tmp_path)
    monkeypatch.setattr(BaseStage, "loss", broken)
    with pytest.raises(FloatingPointError, match="not finite at step 2"):
        run(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    monkeypatch.undo()
    _, terms = run(config, tmp_path)
    assert len(terms) == 2


def test_loss_curves_are_drawn(tmp_path: Path) -> None:
    run(STAGES["predictor"](tmp_path), tmp_path / "run")
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
        ({"ema": 1.0}, "ema must be from 0 to below 1, got 1.0"),
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
